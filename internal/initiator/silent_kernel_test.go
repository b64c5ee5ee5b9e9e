//go:build kernel

package initiator_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/initiator/initiatortest"
	"github.com/holdfast-csi/holdfast/internal/patience"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

func TestHostOnKernelIPv6(t *testing.T) {
	portals := [2]netip.AddrPort{netip.MustParseAddrPort("[::1]:4421"), netip.MustParseAddrPort("[::1]:4422")}
	initiatortest.TestHost(t, func(t *testing.T) initiatortest.Rig { return initiatortest.NewNvmet(t) }, portals)
}

func oneQueue(nqn string, p netip.AddrPort) initiator.Session {
	return initiator.Session{
		NQN: nqn, HostNQN: hostNQN, HostID: hostID, Portals: []netip.AddrPort{p},
		Config: nvme.ConnectionConfig{CtrlLossTmo: -1, ReconnectDelay: 1, KeepAliveTmo: 5, NrIOQueues: 1},
	}
}

// silencePortalA drops what goes to portalA and comes from it, until heal is called
// or the test ends.
func silencePortalA(t *testing.T) (heal func()) {
	t.Helper()
	sh(t, "nft add table inet t && nft 'add chain inet t i { type filter hook input priority 0; }' && nft add rule inet t i tcp dport 4421 drop && nft add rule inet t i tcp sport 4421 drop")
	heal = sync.OnceFunc(func() { sh(t, "nft delete table inet t") })
	t.Cleanup(heal)
	return heal
}

// Deleting a live controller whose path has gone silent takes the kernel its
// time. Nobody else waits for it.
func TestDisconnectOfASilentPathOnKernel(t *testing.T) {
	n := initiatortest.NewNvmet(t)
	n.AddSubsystem(testNQN, portalA)
	n.AddSubsystem(otherNQN, portalB)
	h := initiator.New(n.Options())
	t.Cleanup(func() {
		for _, nqn := range []string{testNQN, otherNQN} {
			if err := h.Disconnect(context.Background(), nqn); err != nil {
				t.Error(err)
			}
		}
	})
	if err := h.EnsureSession(t.Context(), oneQueue(testNQN, portalA)); err != nil {
		t.Fatal(err)
	}
	heal := silencePortalA(t)
	begin := time.Now()
	err := h.Disconnect(within(t, 2*time.Second), testNQN)
	t.Logf("after %.1f s: %v", time.Since(begin).Seconds(), err)
	if err != nil && !errors.Is(err, volume.ErrPending) {
		t.Error(err)
	}
	if d := time.Since(begin); d > 4*time.Second {
		t.Errorf("it held its caller for %v", d)
	}
	other := time.Now()
	if err := h.EnsureSession(t.Context(), oneQueue(otherNQN, portalB)); err != nil {
		t.Error(err)
	}
	t.Logf("another session in %.1f s", time.Since(other).Seconds())
	heal() // or the kernel takes a minute
	if err := h.Disconnect(within(t, 2*time.Minute), testNQN); err != nil {
		t.Error(err)
	}
	t.Logf("gone after %.1f s", time.Since(begin).Seconds())
}

// hurried is a host that makes the kernel hurry.
func hurried(t *testing.T, o initiator.Options) *initiator.Host {
	limit, err := patience.New(o.FS, patience.Default, t.TempDir(), slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	o.Patience = limit
	before, err := o.FS.AdminTimeout()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A deletion may show in sysfs a moment before its write returns.
		after, err := o.FS.AdminTimeout()
		for end := time.Now().Add(time.Second); after != before && err == nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			after, err = o.FS.AdminTimeout()
		}
		if err != nil || after != before {
			t.Errorf("the kernel waits for %v, %v; before it was %v", after, err, before)
		}
	})
	return initiator.New(o)
}

// The same, and the path stays silent: the kernel gives up after its admin
// time-out, or twice that.
func TestDisconnectWithoutPatienceOnKernel(t *testing.T) {
	n := initiatortest.NewNvmet(t)
	n.AddSubsystem(testNQN, portalA)
	h := hurried(t, n.Options())
	if err := h.EnsureSession(t.Context(), oneQueue(testNQN, portalA)); err != nil {
		t.Fatal(err)
	}
	silencePortalA(t)
	begin := time.Now()
	if err := h.Disconnect(within(t, time.Minute), testNQN); err != nil {
		t.Error(err)
	}
	t.Logf("gone after %.1f s", time.Since(begin).Seconds())
	if d := time.Since(begin); d > 3*patience.Default {
		t.Errorf("it took %v", d)
	}
}

// A storage host that vanishes between two commands of a connect: this connect
// and the next one, which the kernel lets in only after it, take seconds and not
// minutes.
func TestCutConnectOnKernel(t *testing.T) {
	n := initiatortest.NewNvmet(t)
	n.AddSubsystem(testNQN, portalA)
	n.AddSubsystem(otherNQN, portalB)
	const connected = 128 + 72 + 1024 // bytes of ICReq and of Connect with its data (NVMe/TCP 3.6.2, NVMe over Fabrics 3.3)
	for name, bytes := range map[string]int64{"after Connect": connected, "after four more": connected + 4*72, "after eight more": connected + 8*72} {
		t.Run(name, func(t *testing.T) {
			h := hurried(t, n.Options())
			at := cutAfter(t, portalA, bytes)
			begin := time.Now()
			err := h.EnsureSession(within(t, 100*time.Millisecond), oneQueue(testNQN, at))
			wantIs(t, err, volume.ErrUnavailable)
			if err := h.EnsureSession(within(t, time.Minute), oneQueue(otherNQN, portalB)); err != nil {
				t.Error(err)
			}
			t.Logf("another session after %.1f s", time.Since(begin).Seconds())
			if d := time.Since(begin); d > 3*patience.Default {
				t.Errorf("it took %v", d)
			}
			for _, nqn := range []string{testNQN, otherNQN} {
				if err := h.Disconnect(within(t, time.Minute), nqn); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// cutAfter returns a portal that forwards so many bytes to another, and swallows
// what comes after them.
func cutAfter(t *testing.T, to netip.AddrPort, bytes int64) netip.AddrPort {
	at := netip.AddrPortFrom(to.Addr(), to.Port()+uint16(100+bytes/72%16))
	listen(t, at.String(), func(c *net.TCPConn) {
		defer c.Close() //nolint:errcheck // nothing is kept
		up, err := net.Dial("tcp", to.String())
		if err != nil {
			return
		}
		defer up.Close()  //nolint:errcheck // nothing is kept
		go io.Copy(c, up) //nolint:errcheck // ends with either
		_, _ = io.CopyN(up, c, bytes)
		_, _ = io.Copy(io.Discard, c)
	})
	return at
}

// A portal that accepts and says nothing: the caller goes when it wants, other
// connects wait for the kernel, and what comes after is clean.
func TestHungPortalOnKernel(t *testing.T) {
	n := initiatortest.NewNvmet(t)
	n.AddSubsystem(testNQN, portalA)
	n.AddSubsystem(otherNQN, portalB)
	listen(t, portalC.String(), func(c *net.TCPConn) {
		t.Cleanup(func() { _ = c.Close() })
	})
	h := initiator.New(n.Options())
	begin := time.Now()
	err := h.EnsureSession(within(t, time.Second), oneQueue(testNQN, portalC))
	wantIs(t, err, volume.ErrUnavailable, context.DeadlineExceeded)
	t.Logf("the hung one after %.1f s: %v", time.Since(begin).Seconds(), err)
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("it held its caller for %v", d)
	}
	if err := h.EnsureSession(within(t, time.Minute), oneQueue(otherNQN, portalB)); err != nil {
		t.Error(err)
	}
	t.Logf("another after %.1f s", time.Since(begin).Seconds())
	if err := h.EnsureSession(within(t, time.Minute), oneQueue(testNQN, portalA)); err != nil {
		t.Error(err)
	}
	for _, nqn := range []string{testNQN, otherNQN} {
		if err := h.Disconnect(within(t, time.Minute), nqn); err != nil {
			t.Error(err)
		}
	}
}
