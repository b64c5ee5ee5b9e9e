package initiator

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

func TestPortalLists(t *testing.T) {
	t.Parallel()
	a, b, mapped := addrs("10.0.0.1:4420"), addrs("10.0.0.2:4420"), addrs("[::ffff:10.0.0.1]:4420")
	both := addrs("10.0.0.2:4420", "10.0.0.1:4420")
	for _, c := range []struct {
		x, y []netip.AddrPort
		same bool
		join int
	}{
		{a, a, true, 1}, {a, mapped, true, 1}, {a, b, false, 2}, {both, slices.Concat(a, b), true, 2},
		{a, both, false, 2}, {nil, a, false, 1}, {nil, nil, true, 0}, {slices.Concat(a, a), a, true, 2},
	} {
		if got := SamePortals(c.x, c.y); got != c.same {
			t.Errorf("%v and %v: %v", c.x, c.y, got)
		}
		if got := JoinPortals(c.x, c.y); len(got) != c.join {
			t.Errorf("%v with %v: %v", c.x, c.y, got)
		}
	}
	room := append(make([]netip.AddrPort, 0, 4), a...)
	JoinPortals(room, b)
	if got := room[:2][1]; got.IsValid() {
		t.Errorf("a list was changed in place: %v", got)
	}
}

// atNew is a session that has moved from 10.0.0.1 to 10.0.0.2.
func atNew() Session {
	return Session{NQN: nqnA, HostNQN: "h", HostID: "i", Portals: addrs("10.0.0.2:4420")}
}

func TestExcess(t *testing.T) {
	t.Parallel()
	foreign, other, going, noPortal := ctl(1, "live"), ctl(1, "live"), ctl(1, "deleting"), ctl(1, "live")
	foreign.HostNQN = "another"
	other.NQN = nqnA + "b"
	noPortal.Traddr = "nn-0x1:pn-0x2"
	for name, c := range map[string]struct {
		have []nvmesysfs.Controller
		want int
	}{
		"the new one only":              {[]nvmesysfs.Controller{ctl(2, "live")}, 0},
		"old and new":                   {[]nvmesysfs.Controller{ctl(1, "live"), ctl(2, "live")}, 1},
		"the old one, reconnecting":     {[]nvmesysfs.Controller{ctl(1, "connecting")}, 1},
		"the old one, going already":    {[]nvmesysfs.Controller{going}, 0},
		"another host's":                {[]nvmesysfs.Controller{foreign}, 0},
		"another session's":             {[]nvmesysfs.Controller{other}, 0},
		"one that is not reached by IP": {[]nvmesysfs.Controller{noPortal}, 0},
	} {
		if got := Excess(c.have, atNew()); len(got) != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestProvenAt(t *testing.T) {
	t.Parallel()
	right := uuid.New()
	id := Identity{NQN: nqnA, NSID: 3, UUID: right}
	oldOne, newOne := ctl(1, "live"), ctl(2, "live")
	disk := func(id uuid.UUID, through ...nvmesysfs.Controller) nvmesysfs.Namespace {
		ns := nvmesysfs.Namespace{Disk: "nvme0n1", NQN: nqnA, NSID: 3, UUID: id}
		for _, c := range through {
			ns.Controllers = append(ns.Controllers, c.Name)
		}
		return ns
	}
	reconnecting := ctl(2, "connecting")
	for name, c := range map[string]struct {
		controllers []nvmesysfs.Controller
		disks       []nvmesysfs.Namespace
		want        bool
	}{
		"over both":                  {[]nvmesysfs.Controller{oldOne, newOne}, []nvmesysfs.Namespace{disk(right, oldOne, newOne)}, true},
		"over the new one":           {[]nvmesysfs.Controller{newOne}, []nvmesysfs.Namespace{disk(right, newOne)}, true},
		"not scanned yet":            {[]nvmesysfs.Controller{oldOne, newOne}, []nvmesysfs.Namespace{disk(right, oldOne)}, false},
		"the new one is not live":    {[]nvmesysfs.Controller{oldOne, reconnecting}, []nvmesysfs.Namespace{disk(right, oldOne, reconnecting)}, false},
		"another volume":             {[]nvmesysfs.Controller{newOne}, []nvmesysfs.Namespace{disk(uuid.New(), newOne)}, false},
		"no disk":                    {[]nvmesysfs.Controller{newOne}, nil, false},
		"a disk for each controller": {[]nvmesysfs.Controller{oldOne, newOne}, []nvmesysfs.Namespace{disk(right, oldOne), disk(right, newOne)}, true},
		"another one over the new":   {[]nvmesysfs.Controller{oldOne, newOne}, []nvmesysfs.Namespace{disk(right, oldOne), disk(uuid.New(), newOne)}, false},
	} {
		if got := ProvenAt(nvmesysfs.Snapshot{Controllers: c.controllers, Namespaces: c.disks}, id, atNew()); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
