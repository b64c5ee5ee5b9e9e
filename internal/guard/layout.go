package guard

import (
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-csi/holdfast/internal/dm"
)

// layout is what the devices of one volume are like now.
type layout struct {
	top    dm.Device // the table
	size   uint64    // of it, in sectors
	queues bool
	paths  []path
	legs   [2]leg
	waits  bool // the kernel has a target for waitTable
}

// leg is one of the two devices below the table.
type leg struct {
	dm.Device
	there bool
	disk  string // that it is linear on, MAJOR:MINOR; "" if it has another table, or none
	waits bool   // its table keeps whatever comes
	ready bool   // such a table is loaded, and comes with the next resume
	size  uint64 // of its table, in sectors
	path         // the table's path through it; the zero path if it has none
}

// look reads the layout of a volume; dm.ErrNotFound if there is no table.
func (g *Guards) look(name string) (l layout, err error) {
	var status dm.Target
	if l.top, status, err = g.dm.Status(name); err != nil {
		return layout{}, err
	}
	l.waits = g.waits
	if status.Text == "" {
		l.top.HasTable = false
	}
	if l.top.HasTable {
		if err := g.lookAtTable(name, status, &l); err != nil {
			return layout{}, err
		}
	}
	for i := range l.legs {
		if l.legs[i], err = g.lookAtLeg(name+legSuffixes[i], l.paths); err != nil {
			return layout{}, err
		}
	}
	return l, nil
}

func (g *Guards) lookAtTable(name string, status dm.Target, l *layout) (err error) {
	l.size = status.Sectors
	if l.paths, err = parseStatus(status.Text); err != nil {
		return err
	}
	_, table, err := g.dm.Table(name)
	if err != nil {
		return err
	}
	l.queues, err = parseTable(table.Text)
	// A suspend takes the flag away and keeps it for the resume.
	l.queues = l.queues || l.top.Suspended
	return err
}

func (g *Guards) lookAtLeg(name string, paths []path) (leg, error) {
	d, t, err := g.dm.Table(name)
	switch {
	case errors.Is(err, dm.ErrNotFound):
		return leg{}, nil
	case err != nil:
		return leg{}, err
	}
	x := leg{Device: d, there: true, disk: parseLinear(t), waits: t.Type == "delay", size: t.Sectors}
	if d.HasNewTable {
		_, loaded, err := g.dm.Loaded(name)
		if err != nil {
			return leg{}, err
		}
		x.ready = loaded.Type == "delay" && loaded.Sectors == t.Sectors
	}
	if i := slices.IndexFunc(paths, func(p path) bool { return p.dev == d.Number() }); i >= 0 {
		x.path = paths[i]
	}
	return x, nil
}

// serves says whether the table sends I/O there, and it goes on from there.
func (x leg) serves() bool { return x.active && !x.Suspended && x.disk != "" }

// collects says whether the table sends I/O there, and it waits there.
func (x leg) collects() bool { return x.active && (x.Suspended || x.waits) }

// leads says whether a leg leads to p, or does once it is resumed.
func (x leg) leads(p Path) bool {
	return x.there && x.HasTable && x.disk == p.dev() && x.size == p.sectors()
}

// strange says whether something is loaded that nobody knows the origin of.
func (x leg) strange() bool { return x.HasNewTable && !x.ready }

// stuck says whether a leg has I/O under way on another disk than p, which a suspend
// would wait for.
func (x leg) stuck(p Path) bool {
	return x.busy > 0 && !x.waits && !x.Suspended && x.disk != p.dev()
}

// laid says whether the table is as it has to be above its legs for p, and takes
// messages.
func (l layout) laid(p Path) bool {
	return l.onLegs() && l.size == p.sectors() && !l.top.Suspended
}

// onLegs says whether the paths of the table are its legs: tables of earlier
// versions are on the disk itself.
func (l layout) onLegs() bool {
	return len(l.paths) == len(l.legs) && l.legs[0].dev != "" && l.legs[1].dev != ""
}

// front chooses the leg that is to lead to p: the first, of what is best. There is
// none while both have I/O under way elsewhere.
func (l layout) front(p Path) (i int, ok bool) {
	for _, good := range []func(leg) bool{
		func(x leg) bool { return x.leads(p) && x.serves() },
		func(x leg) bool { return x.leads(p) && !x.Suspended },
		func(x leg) bool { return x.disk == p.dev() && x.serves() }, // it has grown
		func(x leg) bool { return !x.active && !x.Suspended && x.busy == 0 },
		leg.collects, // because the other has I/O under way that nobody knows the end of
		func(x leg) bool { return !x.stuck(p) },
	} {
		if i := slices.IndexFunc(l.legs[:], good); i >= 0 {
			return i, true
		}
	}
	return 0, false
}

// spare finds the leg that is to collect what comes while the disk is away: one
// that does, is suspended, or has nothing to wait for in a suspend.
func (l layout) spare() (i int, ok bool) {
	for _, good := range []func(leg) bool{
		leg.collects,
		func(x leg) bool { return x.waits || x.Suspended },
		func(x leg) bool { return x.ready && !x.active && x.busy == 0 },
		func(x leg) bool { return !x.active && x.busy == 0 },
	} {
		if i := slices.IndexFunc(l.legs[:], good); i >= 0 {
			return i, true
		}
	}
	return 0, false
}

// suspended says whether any of the devices is.
func (l layout) suspended() bool {
	return l.top.Suspended || l.legs[0].Suspended || l.legs[1].Suspended
}

// disk returns the device that I/O goes to, or went to last, and whether it does.
func (l layout) disk() (dev string, active bool) {
	if !l.onLegs() && len(l.paths) > 0 {
		return l.paths[0].dev, l.paths[0].active
	}
	for _, x := range l.legs {
		switch {
		case x.serves():
			return x.disk, true
		case dev == "" || x.disk != "" && !x.Suspended && x.busy == 0:
			dev = x.disk
		}
	}
	return dev, false
}

// untidy says whether there is something to do to have the I/O go on to where it
// goes.
func (l layout) untidy() bool {
	dev, _ := l.disk()
	p := Path{SizeBytes: int64(l.size) * sectorSize}
	n, err := fmt.Sscanf(dev, "%d:%d", &p.Major, &p.Minor)
	return err != nil || n != 2 || len(l.plan(p)) > 0
}
