package watch

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

// A session whose volumes have another address now: the old controllers go when
// all of them are proven over the new, and not before.
func TestMoved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(f *facts, v *Volume)
		want   []string
	}{
		"proven": {func(*facts, *Volume) {}, []string{"retire"}},
		"not scanned yet": {
			ofDevice(func(ns *nvmesysfs.Namespace) { ns.Controllers = ns.Controllers[:1] }), nil,
		},
		"the new one is reconnecting": {func(f *facts, _ *Volume) { f.controllers[1].State = "connecting" }, nil},
		"no new one yet":              {func(f *facts, _ *Volume) { f.controllers = f.controllers[:1] }, []string{"connect"}},
		"the old one is dead":         {func(f *facts, _ *Volume) { f.controllers[0].State = "connecting" }, []string{"retire"}},
		"another volume":              {ofDevice(func(ns *nvmesysfs.Namespace) { ns.UUID = otherUUID }), nil},
		"not looked at":               {func(f *facts, _ *Volume) { f.looked = false }, nil},
		"the volume has ended":        {func(f *facts, _ *Volume) { f.volumes[0].Ended = true }, nil},
		"another volume is not proven": {func(f *facts, _ *Volume) {
			o := ourVolume()
			o.ID, o.Identity.NSID = "o", 2
			f.volumes = append(f.volumes, o)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := ourVolume()
			v.Session.Portals = []netip.AddrPort{portal(2)}
			f := factsOf(time.Hour, v)
			f.controllers = append(f.controllers, controller("nvme2", "live", 2))
			f.namespaces = []nvmesysfs.Namespace{device(3, "nvme1", "nvme2")}
			c.change(&f, &v)
			if diff := cmp.Diff(c.want, words(decideSession(rules{}, f, &sessionMemory{}))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// The portals are those of all volumes that want the session.
func TestPortalsOfAll(t *testing.T) {
	t.Parallel()
	a, b, ended := ourVolume(), ourVolume(), ourVolume()
	b.Session.Portals = []netip.AddrPort{portal(2), portal(1)}
	ended.Session.Portals, ended.Ended = []netip.AddrPort{portal(3)}, true
	got := bySession([]Volume{a, ended, b})[0].session.Portals
	if diff := cmp.Diff([]string{portal(1).String(), portal(2).String()}, texts(got)); diff != "" {
		t.Error(diff)
	}
	if got := bySession([]Volume{ended})[0].session.Portals; len(got) != 1 {
		t.Errorf("of ended ones only: %v", got)
	}
	if len(a.Session.Portals) != 1 {
		t.Errorf("the volume's own list was changed: %v", a.Session.Portals)
	}
}

func texts(portals []netip.AddrPort) (out []string) {
	for _, p := range portals {
		out = append(out, p.String())
	}
	return out
}

// Moved under way: connected beside the old, proven, and then the old is gone,
// with I/O going on all the time; also where the disk shows up late, and where
// nothing but time tells the watch of it.
func TestMoves(t *testing.T) {
	t.Parallel()
	w := newWorld(2)
	w.steady = true
	inBubbleOf(t, w, func(r run) {
		r.pass(time.Second)
		r.do(func() {
			r.network = false // the new address does not answer yet
			r.moveTo(portal(2))
		})
		r.changed <- struct{}{}
		r.pass(20 * time.Second)
		r.expect(0, Serving)
		r.expectCalls("retire", 0)
		if n := r.count("restore nqn.v0"); n < 7 || n > 9 {
			r.Errorf("%d attempts to connect the new address in 20 s", n)
		}
		r.do(func() { r.network = true })
		r.pass(connectSpare + time.Second)
		r.expect(0, Serving)
		r.expectCalls("retire nqn.v0", 1)
		r.expectCalls("hold", 0)
		r.expectCalls("feed", 0)
		if n := len(r.controllers); n != 2 {
			r.Errorf("%d controllers: %+v", n, r.controllers)
		}
	})
}

// moveTo gives volume 0 another address, as a new list of volumes.
func (w *world) moveTo(p netip.AddrPort) {
	vs := append([]Volume(nil), w.volumes...)
	vs[0].Session.Portals = []netip.AddrPort{p}
	w.volumes = vs
}

// Moved while away: the old path is dead, and the volume goes on over the new.
func TestMovesInAnOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(1)
	w.steady = true
	inBubbleOf(t, w, func(r run) {
		r.pass(time.Second)
		r.do(func() { r.setState(0, "connecting") })
		r.pass(10 * time.Second)
		r.expect(0, Waiting)
		r.expectCalls("restore", 0)
		r.do(func() { r.moveTo(portal(2)) })
		r.changed <- struct{}{}
		r.pass(time.Second)
		r.expect(0, Serving)
		r.pass(time.Second)
		r.expectCalls("retire nqn.v0", 1)
		if len(r.controllers) != 1 || r.controllers[0].Traddr != "192.0.2.2" {
			r.Errorf("%+v", r.controllers)
		}
	})
}
