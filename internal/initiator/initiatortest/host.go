package initiatortest

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

// Rig is a machine and what it can reach: the fake, or a kernel with itself.
type Rig interface {
	Options() initiator.Options
	AddSubsystem(nqn string, portals ...netip.AddrPort)
	AddNamespace(nqn string, ns Namespace)
	RemoveNamespace(nqn string, nsid uint32)
	// SetPortal knows Up and Closed.
	SetPortal(portal netip.AddrPort, state PortalState)
}

var _ Rig = (*Fake)(nil)

// Options are those of a Host on this machine.
func (f *Fake) Options() initiator.Options {
	return initiator.Options{FS: f.fs, Connector: f, Probe: f.Probe}
}

// hostCase is one test on a fresh rig with one subsystem on two portals.
type hostCase struct {
	*testing.T
	rig     Rig
	host    *initiator.Host
	fs      nvmesysfs.FS
	session initiator.Session // over the first portal
	both    initiator.Session // over both
}

// TestHost is what initiator.Host promises, against the machine that newRig
// makes. portals are two that newRig's machine can listen on.
func TestHost(t *testing.T, newRig func(*testing.T) Rig, portals [2]netip.AddrPort) {
	for _, c := range []struct {
		name string
		run  func(*hostCase)
	}{
		{"connects and is live", (*hostCase).connects},
		{"adopts what is there", (*hostCase).adopts},
		{"connects both portals, and lives with one", (*hostCase).twoPortals},
		{"waits for a controller that reconnects", (*hostCase).reconnecting},
		{"says what state a session is in", (*hostCase).closed},
		{"leaves another host's session alone", (*hostCase).foreign},
		{"disconnects", (*hostCase).disconnects},
		{"finds namespaces, early and late", (*hostCase).findsNamespace},
		{"finds a UUID that moved to another NSID", (*hostCase).movedUUID},
		{"refuses what is not the volume", (*hostCase).wrongIdentity},
		{"gives up on a namespace that is not there", (*hostCase).absent},
		{"sees a volume that has grown", (*hostCase).grown},
	} {
		t.Run(c.name, func(t *testing.T) {
			rig := newRig(t)
			h := &hostCase{T: t, rig: rig, host: initiator.New(rig.Options()), fs: rig.Options().FS}
			id := uuid.NewString()
			h.session = initiator.Session{
				NQN:     "nqn.2026-11.io.holdfast:test:" + uuid.NewString(),
				HostNQN: volume.HostNQNPrefix + id, HostID: id, Portals: portals[:1],
				Config: nvme.ConnectionConfig{CtrlLossTmo: -1, ReconnectDelay: 1, NrIOQueues: 1},
			}
			h.both = h.session
			h.both.Portals = portals[:]
			rig.AddSubsystem(h.session.NQN, portals[:]...)
			t.Cleanup(func() { disconnect(t, h.fs, h.session.NQN) })
			c.run(h)
		})
	}
}

func (h *hostCase) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(h.Context(), d)
	h.Cleanup(cancel)
	return ctx
}

func (h *hostCase) ensure(s initiator.Session) {
	h.Helper()
	if err := h.host.EnsureSession(h.within(settle), s); err != nil {
		h.Fatal(err)
	}
}

func (h *hostCase) wait(id initiator.Identity) (nvmesysfs.Namespace, string) {
	h.Helper()
	ns, path, err := h.host.WaitNamespace(h.within(settle), id)
	if err != nil {
		h.Fatal(err)
	}
	if ns.NQN != h.session.NQN || ns.SizeBytes == 0 || path != h.fs.Dev+"/"+ns.Disk {
		h.Fatalf("found %+v at %s", ns, path)
	}
	return ns, path
}

func (h *hostCase) identity(ns Namespace) initiator.Identity {
	return initiator.Identity{NQN: h.session.NQN, NSID: ns.NSID, UUID: ns.UUID, NGUID: ns.NGUID, SizeBytes: ns.SizeBytes, BlockSize: 4096}
}

func newNamespace(nsid uint32) Namespace {
	return Namespace{NSID: nsid, UUID: uuid.New(), NGUID: uuid.New(), SizeBytes: 16 << 20}
}

func (h *hostCase) connects() {
	if live, err := h.host.Live(h.session.NQN); err != nil || live {
		h.Errorf("before: live=%t, %v", live, err)
	}
	h.ensure(h.session)
	if live, err := h.host.Live(h.session.NQN); err != nil || !live {
		h.Errorf("after: live=%t, %v", live, err)
	}
	theController(h.T, h.fs, h.session.NQN)
}

func (h *hostCase) adopts() {
	h.ensure(h.session)
	before := theController(h.T, h.fs, h.session.NQN)
	// Another Host, as after a restart of the plugin, with other options.
	other := h.session
	other.Config.ReconnectDelay = 9
	if err := initiator.New(h.rig.Options()).EnsureSession(h.within(settle), other); err != nil {
		h.Fatal(err)
	}
	if after := theController(h.T, h.fs, h.session.NQN); after.Name != before.Name || after.ReconnectDelay != before.ReconnectDelay {
		h.Errorf("before %+v, after %+v", before, after)
	}
}

func (h *hostCase) twoPortals() {
	h.rig.SetPortal(h.both.Portals[1], Closed)
	h.ensure(h.both)
	theController(h.T, h.fs, h.session.NQN)
	h.rig.SetPortal(h.both.Portals[1], Up)
	h.ensure(h.both)
	if c := controllers(h.T, h.fs, h.session.NQN); len(c) != 2 {
		h.Fatalf("controllers %+v, want two", c)
	}
	ns := newNamespace(3)
	h.rig.AddNamespace(h.session.NQN, ns)
	h.wait(h.identity(ns))
	eventually(h.T, "the namespace has two paths", func() bool {
		s, err := h.fs.Session(h.session.NQN)
		return err == nil && len(s.Namespaces) == 1 && len(s.Namespaces[0].Controllers) == 2
	})
	h.rig.SetPortal(h.both.Portals[0], Closed)
	h.ensure(h.both)
	h.wait(h.identity(ns))
}

func (h *hostCase) reconnecting() {
	h.ensure(h.session)
	before := theController(h.T, h.fs, h.session.NQN)
	h.lose()
	back := time.AfterFunc(300*time.Millisecond, func() { h.rig.SetPortal(h.session.Portals[0], Up) })
	defer back.Stop()
	h.ensure(h.session)
	if after := theController(h.T, h.fs, h.session.NQN); after.Name != before.Name || after.State != "live" {
		h.Errorf("before %+v, after %+v", before, after)
	}
}

// lose closes the first portal and waits until the kernel has noticed.
func (h *hostCase) lose() {
	h.Helper()
	h.rig.SetPortal(h.session.Portals[0], Closed)
	eventually(h.T, "the controller reconnects", func() bool {
		c := controllers(h.T, h.fs, h.session.NQN)
		return len(c) == 1 && c[0].State == "connecting"
	})
}

func (h *hostCase) closed() {
	h.rig.SetPortal(h.session.Portals[0], Closed)
	err := h.host.EnsureSession(h.within(time.Second), h.session)
	wantErrors(h.T, err, volume.ErrUnavailable, context.DeadlineExceeded)
	noController(h.T, h.fs, h.session.NQN)
	h.rig.SetPortal(h.session.Portals[0], Up)
	h.ensure(h.session)
	h.lose()
	err = h.host.EnsureSession(h.within(time.Second), h.session)
	wantErrors(h.T, err, volume.ErrUnavailable, context.DeadlineExceeded)
}

func (h *hostCase) foreign() {
	h.ensure(h.session)
	other := h.session
	other.HostID = uuid.NewString()
	other.HostNQN = volume.HostNQNPrefix + other.HostID
	wantErrors(h.T, h.host.EnsureSession(h.within(settle), other), volume.ErrPrecondition)
	o := h.rig.Options()
	o.HostNQN = other.HostNQN
	if err := initiator.New(o).Disconnect(h.within(settle), h.session.NQN); err != nil {
		h.Error(err)
	}
	theController(h.T, h.fs, h.session.NQN)
}

func (h *hostCase) disconnects() {
	for range 2 { // the second time there is nothing
		if err := h.host.Disconnect(h.within(settle), h.session.NQN); err != nil {
			h.Fatal(err)
		}
		noController(h.T, h.fs, h.session.NQN)
	}
	h.ensure(h.both)
	h.lose0()
	if err := h.host.Disconnect(h.within(settle), h.session.NQN); err != nil {
		h.Fatal(err)
	}
	noController(h.T, h.fs, h.session.NQN)
}

// lose0 closes the first portal without waiting.
func (h *hostCase) lose0() { h.rig.SetPortal(h.session.Portals[0], Closed) }

func wantErrors(t *testing.T, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if !errors.Is(err, w) {
			t.Errorf("got %v, want it to wrap %q", err, w)
		}
	}
}
