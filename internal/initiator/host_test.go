package initiator_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/initiator/initiatortest"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

func session(nqn string, portals ...netip.AddrPort) initiator.Session {
	return initiator.Session{NQN: nqn, HostNQN: hostNQN, HostID: hostID, Portals: portals, Config: nvme.DefaultConnectionConfig()}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantIs(t *testing.T, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("got %v, want it to wrap %v", err, target)
		}
	}
}

func TestOneConnectASessionAndOneAtATime(t *testing.T) {
	f := initiatortest.New(t)
	h := f.Host()
	nqns := []string{testNQN, otherNQN, testNQN + "c", testNQN + "d"}
	var wg sync.WaitGroup
	for _, nqn := range nqns {
		f.AddSubsystem(nqn, portalA)
		for range 8 {
			wg.Go(func() {
				if err := h.EnsureSession(t.Context(), session(nqn, portalA)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if calls, parallel := f.Connects(); calls != len(nqns) || parallel != 1 {
		t.Errorf("%d connects, %d at a time", calls, parallel)
	}
}

// A target that accepts and says nothing holds the node's connect lock and the
// session's until the kernel gives up, but no caller longer than it wants.
func TestHungPortal(t *testing.T) {
	f := initiatortest.New(t)
	synctest.Test(t, func(t *testing.T) {
		f.AddSubsystem(testNQN, portalA)
		f.AddSubsystem(otherNQN, portalB)
		f.SetPortal(portalA, initiatortest.Hung)
		h := f.Host()
		begin := time.Now()
		took := func(what string, err error, want time.Duration, is ...error) {
			t.Helper()
			if d := time.Since(begin); d != want {
				t.Errorf("%s after %v, want %v: %v", what, d, want, err)
			}
			wantIs(t, err, is...)
		}
		err := h.EnsureSession(within(t, time.Second), session(testNQN, portalA))
		took("the hung one", err, time.Second, volume.ErrUnavailable, context.DeadlineExceeded)
		err = h.Disconnect(within(t, time.Second), testNQN)
		took("disconnecting it", err, 2*time.Second, volume.ErrPending, context.DeadlineExceeded)
		err = h.EnsureSession(within(t, time.Second), session(otherNQN, portalB))
		took("another, in a hurry", err, 3*time.Second, volume.ErrUnavailable, context.DeadlineExceeded)
		err = h.EnsureSession(t.Context(), session(otherNQN, portalB))
		if took("another, with time", err, 10*time.Second); err != nil {
			t.Error(err)
		}
		if err := h.Disconnect(t.Context(), testNQN); err != nil {
			t.Error(err)
		}
	})
}

func TestSilentPortalIsNotConnected(t *testing.T) {
	f := initiatortest.New(t)
	synctest.Test(t, func(t *testing.T) {
		f.AddSubsystem(testNQN, portalA, portalB)
		f.SetPortal(portalA, initiatortest.Silent)
		begin := time.Now()
		if err := f.Host().EnsureSession(t.Context(), session(testNQN, portalA, portalB)); err != nil {
			t.Error(err)
		}
		if calls, _ := f.Connects(); calls != 1 || time.Since(begin) != time.Second {
			t.Errorf("%d connects in %v, want the good one after the probe's second", calls, time.Since(begin))
		}
	})
}

func TestFinalErrorsEndTheWait(t *testing.T) {
	f := initiatortest.New(t)
	synctest.Test(t, func(t *testing.T) {
		f.AddSubsystem(testNQN, portalA, portalB)
		f.AddSubsystem(otherNQN, portalA)
		h := f.Host()
		if err := h.EnsureSession(t.Context(), session(otherNQN, portalA)); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		mixed := session(testNQN, portalA, portalB) // our host ID with another host NQN
		mixed.HostNQN = "nqn.2014-08.org.nvmexpress:uuid:" + uuid.NewString()
		err := h.EnsureSession(t.Context(), mixed)
		wantIs(t, err, syscall.EINVAL, volume.ErrPrecondition)
		if time.Since(begin) != 0 {
			t.Errorf("after %v", time.Since(begin))
		}
		// One portal that might come back makes the whole of it uncertain.
		mixed.Portals = append(mixed.Portals, portalC)
		err = h.EnsureSession(within(t, 5*time.Second), mixed)
		wantIs(t, err, volume.ErrUnavailable)
		if rpcerr.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), syscall.EINVAL.Error()) {
			t.Errorf("code %v: %v", rpcerr.Code(err), err)
		}
		wantIs(t, h.EnsureSession(t.Context(), session(testNQN)), volume.ErrInvalid)
		wantIs(t, h.EnsureSession(t.Context(), session("x,tls", portalA)), volume.ErrInvalid, nvme.ErrTarget)
	})
}

// What refuses now is asked again, less and less often, until it lets us in.
func TestRefusalIsRetried(t *testing.T) {
	f := initiatortest.New(t)
	synctest.Test(t, func(t *testing.T) {
		f.AddSubsystem(testNQN, portalA)
		f.AllowHosts(testNQN, "somebody else")
		time.AfterFunc(time.Minute, func() { f.AllowHosts(testNQN, hostNQN) })
		begin := time.Now()
		if err := f.Host().EnsureSession(t.Context(), session(testNQN, portalA)); err != nil {
			t.Error(err)
		}
		calls, _ := f.Connects()
		if d := time.Since(begin); d > time.Minute+1100*time.Millisecond || calls < 55 || calls > 65 {
			t.Errorf("%d connects in %v", calls, d)
		}
	})
}

func TestControllerThatIsDeletedWhileWaiting(t *testing.T) {
	f := initiatortest.New(t)
	synctest.Test(t, func(t *testing.T) {
		f.AddSubsystem(testNQN, portalA)
		h := f.Host()
		if err := h.EnsureSession(t.Context(), session(testNQN, portalA)); err != nil {
			t.Fatal(err)
		}
		f.SetPortal(portalA, initiatortest.Closed)
		time.AfterFunc(3*time.Second, func() {
			f.RemoveSubsystem(testNQN) // the reconnect is answered with Do-Not-Retry
			f.SetPortal(portalA, initiatortest.Up)
		})
		time.AfterFunc(6*time.Second, func() { f.AddSubsystem(testNQN, portalA) })
		if err := h.EnsureSession(t.Context(), session(testNQN, portalA)); err != nil {
			t.Error(err)
		}
	})
}

func TestRescans(t *testing.T) {
	f := initiatortest.New(t)
	synctest.Test(t, func(t *testing.T) {
		f.AddSubsystem(testNQN, portalA)
		h := f.Host()
		if err := h.EnsureSession(t.Context(), session(testNQN, portalA)); err != nil {
			t.Fatal(err)
		}
		f.MissEvents(true)
		ns := initiatortest.Namespace{NSID: 1, UUID: uuid.New()}
		f.AddNamespace(testNQN, ns)
		begin := time.Now()
		id := initiator.Identity{NQN: testNQN, NSID: 1, UUID: ns.UUID}
		if _, _, err := h.WaitNamespace(t.Context(), id); err != nil || time.Since(begin) > 300*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		// It comes back as another one, with the same UUID; two scans are needed.
		f.RemoveNamespace(testNQN, 1)
		ns.NSID, id.NSID = 2, 2
		time.AfterFunc(10*time.Second, func() { f.AddNamespace(testNQN, ns) })
		begin = time.Now()
		if _, _, err := h.WaitNamespace(t.Context(), id); err != nil || time.Since(begin) > 11100*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
	})
}

// A wrong identity may be that of a moment ago.
func TestIdentityThatIsCorrected(t *testing.T) {
	f := initiatortest.New(t)
	synctest.Test(t, func(t *testing.T) {
		f.AddSubsystem(testNQN, portalA)
		f.AddNamespace(testNQN, initiatortest.Namespace{NSID: 1, UUID: uuid.New()})
		h := f.Host()
		if err := h.EnsureSession(t.Context(), session(testNQN, portalA)); err != nil {
			t.Fatal(err)
		}
		right := initiatortest.Namespace{NSID: 1, UUID: uuid.New()}
		time.AfterFunc(2*time.Second, func() { f.AddNamespace(testNQN, right) })
		if _, _, err := h.WaitNamespace(t.Context(), initiator.Identity{NQN: testNQN, NSID: 1, UUID: right.UUID}); err != nil {
			t.Error(err)
		}
		begin := time.Now()
		_, _, err := h.WaitNamespace(t.Context(), initiator.Identity{NQN: testNQN, NSID: 1, UUID: uuid.New()})
		var e *initiator.IdentityError
		if d := time.Since(begin); !errors.As(err, &e) || d < 3*time.Second || d > 4*time.Second {
			t.Errorf("after %v: %v", d, err)
		}
	})
}

func TestDeviceNodeThatComesLate(t *testing.T) {
	f := initiatortest.New(t)
	synctest.Test(t, func(t *testing.T) {
		f.AddSubsystem(testNQN, portalA)
		f.AddNamespace(testNQN, initiatortest.Namespace{NSID: 1, UUID: uuid.New()})
		var there atomic.Bool
		o := f.Options()
		o.FS = o.FS.WithStat(func(string) (bool, uint32, uint32, error) {
			if !there.Load() {
				return false, 0, 0, os.ErrNotExist
			}
			return true, 259, 0, nil
		})
		h := initiator.New(o)
		if err := h.EnsureSession(t.Context(), session(testNQN, portalA)); err != nil {
			t.Fatal(err)
		}
		id := initiator.Identity{NQN: testNQN, NSID: 1}
		_, _, err := h.WaitNamespace(within(t, time.Second), id)
		wantIs(t, err, nvmesysfs.ErrNotReady, volume.ErrUnavailable, context.DeadlineExceeded)
		time.AfterFunc(time.Second, func() { there.Store(true) })
		if _, path, err := h.WaitNamespace(t.Context(), id); err != nil || path != filepath.Join(o.FS.Dev, "nvme0n1") {
			t.Errorf("got %q, %v", path, err)
		}
	})
}

// The kernel refuses to delete what was never live, and may hang on what is
// silent: neither holds the caller, and nothing is asked twice at a time.
func TestDisconnectThatIsRefusedOrHangs(t *testing.T) {
	f := initiatortest.New(t)
	synctest.Test(t, func(t *testing.T) {
		f.AddSubsystem(testNQN, portalA)
		var running, most, refusals atomic.Int32
		refuse, hang := atomic.Bool{}, make(chan struct{})
		refuse.Store(true)
		o := f.Options()
		kernel := o.FS
		o.FS = o.FS.WithControl(func(c, attr, v string) error {
			if refuse.Load() {
				refusals.Add(1)
				return syscall.EBUSY
			}
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			<-hang
			return kernel.WriteControl(c, attr, v)
		})
		h := initiator.New(o)
		if err := h.EnsureSession(t.Context(), session(testNQN, portalA)); err != nil {
			t.Fatal(err)
		}
		err := h.Disconnect(within(t, time.Second), testNQN)
		wantIs(t, err, volume.ErrPending, context.DeadlineExceeded)
		if refusals.Load() < 10 || !strings.Contains(err.Error(), "nvme0 is still live") || !strings.Contains(err.Error(), syscall.EBUSY.Error()) {
			t.Errorf("%d refusals: %v", refusals.Load(), err)
		}
		refuse.Store(false)
		for range 3 {
			wantIs(t, h.Disconnect(within(t, time.Second), testNQN), volume.ErrPending)
		}
		close(hang)
		if err := h.Disconnect(t.Context(), testNQN); err != nil || most.Load() != 1 {
			t.Errorf("%d deletions at a time, %v", most.Load(), err)
		}
	})
}
