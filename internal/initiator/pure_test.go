package initiator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const nqnA = "nqn.2026-11.io.holdfast:a"

func addrs(s ...string) (out []netip.AddrPort) {
	for _, a := range s {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

// ctl is a controller to 10.0.0.N, port 4420, of host "h" with ID "i".
func ctl(n int, state string) nvmesysfs.Controller {
	return nvmesysfs.Controller{
		Name: fmt.Sprintf("nvme%d", n), NQN: nqnA, State: state, Traddr: fmt.Sprintf("10.0.0.%d", n), Trsvcid: "4420", HostNQN: "h", HostID: "i",
	}
}

func TestMakePlan(t *testing.T) {
	foreign := ctl(1, "live")
	foreign.HostNQN = "other"
	otherID := ctl(1, "connecting")
	otherID.HostID = "other"
	goingForeign := foreign
	goingForeign.State = "deleting"
	mapped := ctl(1, "live")
	mapped.Traddr = "::ffff:10.0.0.1"
	noPortal := ctl(1, "live")
	noPortal.Traddr, noPortal.Trsvcid = "nn-0x1:pn-0x2", "none"
	upper := ctl(1, "live")
	upper.HostNQN, upper.HostID = "H", "I"
	two := addrs("10.0.0.1:4420", "10.0.0.2:4420")
	for _, c := range []struct {
		name    string
		have    []nvmesysfs.Controller
		portals []netip.AddrPort
		live    bool
		adopted int
		missing []netip.AddrPort
		foreign bool
	}{
		{name: "nothing", portals: two, missing: two},
		{name: "one live", have: []nvmesysfs.Controller{ctl(1, "live")}, portals: two, live: true, adopted: 1, missing: two[1:]},
		{name: "both live", have: []nvmesysfs.Controller{ctl(1, "live"), ctl(2, "live")}, portals: two, live: true, adopted: 2},
		{name: "connecting counts", have: []nvmesysfs.Controller{ctl(1, "connecting"), ctl(2, "resetting")}, portals: two, adopted: 2},
		{name: "new counts", have: []nvmesysfs.Controller{ctl(1, "new")}, portals: two[:1], adopted: 1},
		{name: "deleting does not", have: []nvmesysfs.Controller{ctl(1, "deleting"), ctl(2, "deleting (no IO)")}, portals: two, missing: two},
		{name: "dead does not", have: []nvmesysfs.Controller{ctl(1, "dead")}, portals: two[:1], missing: two[:1]},
		{name: "other portals do not count", have: []nvmesysfs.Controller{ctl(9, "live")}, portals: two, missing: two},
		{name: "another port is another portal", have: []nvmesysfs.Controller{ctl(1, "live")}, portals: addrs("10.0.0.1:4421"), missing: addrs("10.0.0.1:4421")},
		{name: "named twice", portals: addrs("10.0.0.1:4420", "10.0.0.1:4420"), missing: two[:1]},
		{name: "IPv4 in IPv6 in sysfs", have: []nvmesysfs.Controller{mapped}, portals: two[:1], live: true, adopted: 1},
		{name: "IPv4 in IPv6 wanted", have: []nvmesysfs.Controller{ctl(1, "live")}, portals: addrs("[::ffff:10.0.0.1]:4420"), live: true, adopted: 1},
		{name: "not over IP", have: []nvmesysfs.Controller{noPortal}, portals: two[:1], missing: two[:1]},
		{name: "case of the identity", have: []nvmesysfs.Controller{upper}, portals: two[:1], live: true, adopted: 1},
		{name: "another host NQN", have: []nvmesysfs.Controller{foreign}, portals: two, foreign: true},
		{name: "another host NQN elsewhere", have: []nvmesysfs.Controller{foreign, ctl(2, "live")}, portals: two[1:], foreign: true},
		{name: "another host ID", have: []nvmesysfs.Controller{otherID}, portals: two, foreign: true},
		{name: "another host that is going", have: []nvmesysfs.Controller{goingForeign}, portals: two, missing: two},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := makePlan(nvmesysfs.Snapshot{Controllers: c.have}, Session{NQN: nqnA, HostNQN: "h", HostID: "i", Portals: c.portals})
			if c.foreign {
				if !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "nvme1") {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || p.live != c.live || len(p.adopted) != c.adopted || !slices.Equal(p.missing, c.missing) {
				t.Errorf("got %+v, %v", p, err)
			}
		})
	}
}

func TestMatch(t *testing.T) {
	u, g := uuid.New(), uuid.New()
	right := nvmesysfs.Namespace{Disk: "nvme0n7", NQN: nqnA, NSID: 7, UUID: u, NGUID: g, SizeBytes: 100, BlockSize: 4096, Controllers: []string{"nvme0"}}
	id := Identity{NQN: nqnA, NSID: 7, UUID: u, NGUID: g, SizeBytes: 100, BlockSize: 4096}
	but := func(change func(*nvmesysfs.Namespace)) nvmesysfs.Namespace {
		ns := right
		change(&ns)
		return ns
	}
	orphan := but(func(ns *nvmesysfs.Namespace) { ns.Disk, ns.Controllers = "nvme0n1", nil })
	for _, c := range []struct {
		name  string
		have  []nvmesysfs.Namespace
		id    Identity
		want  string // disk
		wrong string // of the identity
	}{
		{name: "right", have: []nvmesysfs.Namespace{right}, id: id, want: "nvme0n7"},
		{name: "grown", have: []nvmesysfs.Namespace{but(func(ns *nvmesysfs.Namespace) { ns.SizeBytes = 200 })}, id: id, want: "nvme0n7"},
		{name: "nothing", id: id},
		{name: "another NSID", have: []nvmesysfs.Namespace{but(func(ns *nvmesysfs.Namespace) { ns.NSID = 8 })}, id: id},
		{name: "another subsystem", have: []nvmesysfs.Namespace{but(func(ns *nvmesysfs.Namespace) { ns.NQN = "x" })}, id: id},
		{name: "another UUID", have: []nvmesysfs.Namespace{but(func(ns *nvmesysfs.Namespace) { ns.UUID = uuid.New() })}, id: id, wrong: "UUID"},
		{name: "no UUID", have: []nvmesysfs.Namespace{but(func(ns *nvmesysfs.Namespace) { ns.UUID = uuid.Nil })}, id: id, wrong: "UUID"},
		{name: "another NGUID", have: []nvmesysfs.Namespace{but(func(ns *nvmesysfs.Namespace) { ns.NGUID = uuid.New() })}, id: id, wrong: "NGUID"},
		{name: "shrunk", have: []nvmesysfs.Namespace{but(func(ns *nvmesysfs.Namespace) { ns.SizeBytes = 99 })}, id: id, wrong: "size"},
		{name: "other blocks", have: []nvmesysfs.Namespace{but(func(ns *nvmesysfs.Namespace) { ns.BlockSize = 512 })}, id: id, wrong: "logical block size"},
		{name: "the one with a path", have: []nvmesysfs.Namespace{orphan, right}, id: id, want: "nvme0n7"},
		{name: "the one with a path, first", have: []nvmesysfs.Namespace{right, orphan}, id: id, want: "nvme0n7"},
		{name: "one without a path alone", have: []nvmesysfs.Namespace{orphan}, id: id, want: "nvme0n1"},
		{name: "by NSID alone", have: []nvmesysfs.Namespace{right}, id: Identity{NQN: nqnA, NSID: 7}, want: "nvme0n7"},
		{name: "by UUID alone", have: []nvmesysfs.Namespace{but(func(ns *nvmesysfs.Namespace) { ns.UUID = uuid.New() }), right}, id: Identity{NQN: nqnA, UUID: u}, want: "nvme0n7"},
		{name: "by NGUID alone", have: []nvmesysfs.Namespace{right}, id: Identity{NQN: nqnA, NGUID: g}, want: "nvme0n7"},
		{name: "by UUID, other NGUID", have: []nvmesysfs.Namespace{right}, id: Identity{NQN: nqnA, UUID: u, NGUID: uuid.New()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns, err := Match(nvmesysfs.Snapshot{Namespaces: c.have}, c.id)
			var e *IdentityError
			isIdentity := errors.As(err, &e)
			switch {
			case c.want != "" && (err != nil || ns.Disk != c.want):
				t.Errorf("got %q, %v", ns.Disk, err)
			case c.want == "" && ns.Disk != "":
				t.Errorf("got %+v", ns)
			case c.wrong != "" && (!isIdentity || len(e.Wrong) != 1 || !strings.HasPrefix(e.Wrong[0], c.wrong) || e.Retryable() || !errors.Is(err, volume.ErrPrecondition)):
				t.Errorf("got %v", err)
			case c.want == "" && c.wrong == "" && (err == nil || isIdentity):
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestConnectError(t *testing.T) {
	for _, c := range []struct {
		op                 string
		err                error
		retryable, timeout bool
		is                 error
	}{
		{opConnect, syscall.ECONNREFUSED, true, false, volume.ErrUnavailable},
		{opConnect, syscall.ETIMEDOUT, true, true, volume.ErrUnavailable},
		{opConnect, syscall.EAGAIN, true, true, volume.ErrUnavailable},
		{opConnect, syscall.EIO, true, false, volume.ErrUnavailable},
		{opConnect, syscall.EINTR, true, false, volume.ErrUnavailable},
		{opConnect, &os.PathError{Op: "open", Path: "/dev/nvme-fabrics", Err: syscall.ENOENT}, true, false, volume.ErrUnavailable},
		{opConnect, syscall.EINVAL, false, false, volume.ErrPrecondition},
		{opConnect, syscall.ENODEV, false, false, volume.ErrPrecondition},
		{opConnect, syscall.EADDRNOTAVAIL, false, false, volume.ErrPrecondition},
		{opConnect, syscall.EKEYREJECTED, false, false, volume.ErrPrecondition},
		{opConnect, syscall.EALREADY, false, false, ErrAlreadyConnected},
		{opConnect, context.DeadlineExceeded, true, true, volume.ErrUnavailable},
		{opConnect, context.Canceled, false, false, context.Canceled},
		{opProbe, syscall.ECONNREFUSED, true, false, volume.ErrUnavailable},
		{opProbe, syscall.EADDRNOTAVAIL, true, false, volume.ErrUnavailable}, // no free port on our side
		{opProbe, context.Canceled, false, false, context.Canceled},
	} {
		err := connectError(c.op, Session{NQN: nqnA}.target(netip.MustParseAddrPort("[fd00::1]:4420")), c.err)
		var e *ConnectError
		if !errors.As(err, &e) || e.Retryable() != c.retryable || e.Timeout() != c.timeout || !errors.Is(err, c.is) || !errors.Is(err, c.err) {
			t.Errorf("%s %v: retryable %t, timeout %t: %v", c.op, c.err, e.Retryable(), e.Timeout(), err)
		}
		if !strings.HasPrefix(err.Error(), c.op+" "+nqnA+" at [fd00::1]:4420: ") {
			t.Errorf("%v", err)
		}
	}
	if connectError(opConnect, Session{}.target(netip.AddrPort{}), nil) != nil {
		t.Error("an error of nothing")
	}
}

func TestSessionLocksAreForgotten(t *testing.T) {
	l := sessionLocks{byID: map[string]*sessionLock{}}
	a, err := l.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.lock(ended, "a"); !errors.Is(err, volume.ErrPending) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	b, err := l.lock(ended, "b") // free: no waiting, so the context is not asked
	if err != nil {
		t.Fatal(err)
	}
	a.share()
	a.done()
	if len(l.byID) != 2 {
		t.Errorf("%d locks, want 2", len(l.byID))
	}
	a.done()
	b.done()
	if len(l.byID) != 0 {
		t.Errorf("%d locks are left", len(l.byID))
	}
}
