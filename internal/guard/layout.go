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
}

// leg is one of the two devices below the table.
type leg struct {
	dm.Device
	there bool
	below string // what it is linear on, MAJOR:MINOR; "" if it has another table, or none
	size  uint64 // of its table, in sectors
	path         // the table's path through it; the zero path if it has none
}

// look reads the layout of a volume; dm.ErrNotFound if there is no table.
func (g *Guards) look(name string) (l layout, err error) {
	var status dm.Target
	if l.top, status, err = g.dm.Status(name); err != nil {
		return layout{}, err
	}
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
	x := leg{Device: d, there: true, below: parseLinear(t), size: t.Sectors}
	if i := slices.IndexFunc(paths, func(p path) bool { return p.dev == d.Number() }); i >= 0 {
		x.path = paths[i]
	}
	return x, nil
}

// serves says whether the table sends I/O there, and it goes on from there.
func (x leg) serves() bool { return x.active && !x.Suspended && x.below != "" }

// collects says whether the table sends I/O there, and it waits there.
func (x leg) collects() bool { return x.active && x.Suspended }

// on says whether a leg leads to p.
func (x leg) on(p Path) bool {
	return x.there && x.HasTable && !x.HasNewTable && x.below == p.dev() && x.size == p.sectors()
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

// front chooses the leg that is to lead to p: what serves goes on, what waits is
// where it collects, and what is under way is left alone.
func (l layout) front(p Path) int {
	rank := func(x leg) int {
		switch {
		case x.on(p) && x.serves():
			return 0
		case x.collects():
			return 1
		case x.Suspended:
			return 2
		case x.on(p):
			return 3
		case !x.active && x.path.below == 0:
			return 4
		case !x.active:
			return 5
		default:
			return 6
		}
	}
	if rank(l.legs[1]) < rank(l.legs[0]) {
		return 1
	}
	return 0
}

// spare finds the leg that is to collect what comes while the disk is away: one
// that is suspended, or has nothing to wait for in a suspend.
func (l layout) spare() (i int, ok bool) {
	i = slices.IndexFunc(l.legs[:], func(x leg) bool { return x.Suspended })
	if i < 0 {
		i = slices.IndexFunc(l.legs[:], func(x leg) bool { return !x.active && x.path.below == 0 })
	}
	return i, i >= 0
}

// suspended says whether any of the devices is.
func (l layout) suspended() bool {
	return l.top.Suspended || l.legs[0].Suspended || l.legs[1].Suspended
}

// below returns the device that I/O goes to, or went to last, and whether it does.
func (l layout) below() (dev string, active bool) {
	if !l.onLegs() && len(l.paths) > 0 {
		return l.paths[0].dev, l.paths[0].active
	}
	for _, x := range l.legs {
		switch {
		case x.serves():
			return x.below, true
		case dev == "" || !x.Suspended:
			dev = x.below
		}
	}
	return dev, false
}

// untidy says whether there is something to do to have the I/O go on to where it
// goes.
func (l layout) untidy() bool {
	dev, _ := l.below()
	p := Path{SizeBytes: int64(l.size) * sectorSize}
	n, err := fmt.Sscanf(dev, "%d:%d", &p.Major, &p.Minor)
	return err != nil || n != 2 || len(l.plan(p)) > 0
}
