package guard

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/dm"
)

// layout is what the devices of one volume are like now.
type layout struct {
	top    dm.Device // the table
	size   uint64    // of it, in sectors
	queues bool
	paths  []path
	leg    leg
	wall   wall
	waits  bool // the kernel has the targets of waitTable and wallTable
}

// wall is the device that what the leg has kept is sent to, to come back from.
type wall struct {
	dm.Device
	there bool
	disk  string // that it passes for, MAJOR:MINOR; "" if it has another table, or none
	size  uint64 // of its table, in sectors
}

// leg is the device beside the disk below the table.
type leg struct {
	dm.Device
	there bool
	disk  string // that it is linear on, MAJOR:MINOR; "" if it has another table, or none
	waits bool   // its table keeps whatever comes
	// standsBy: its table keeps what is written, and fails what is read.
	standsBy bool
	ready    bool   // a table that keeps whatever comes is loaded, for the next resume
	size     uint64 // of its table, in sectors
	path            // the table's path through it; the zero path if it has none
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
	if l.wall, err = g.lookAtWall(name + wallSuffix); err != nil {
		return layout{}, err
	}
	l.leg, err = g.lookAtLeg(name+legSuffix, l)
	return l, err
}

func (g *Guards) lookAtWall(name string) (wall, error) {
	d, t, there, err := g.beside(name)
	if err != nil || !there {
		return wall{}, err
	}
	return wall{Device: d, there: true, disk: parseFlakey(t), size: t.Sectors}, nil
}

// beside reads a device that need not be there.
func (g *Guards) beside(name string) (d dm.Device, t dm.Target, there bool, err error) {
	d, t, err = g.dm.Table(name)
	if errors.Is(err, dm.ErrNotFound) {
		return dm.Device{}, dm.Target{}, false, nil
	}
	return d, t, err == nil, err
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

func (g *Guards) lookAtLeg(name string, l layout) (leg, error) {
	d, t, there, err := g.beside(name)
	if err != nil || !there {
		return leg{}, err
	}
	x := leg{Device: d, there: true, disk: parseLinear(t), size: t.Sectors}
	x.waits, x.standsBy = parseDelay(t)
	if d.HasNewTable {
		_, loaded, err := g.dm.Loaded(name)
		if err != nil {
			return leg{}, err
		}
		wall, _, _ := strings.Cut(loaded.Text, " ")
		keeps, _ := parseDelay(loaded)
		x.ready = keeps && loaded.Sectors == t.Sectors && wall == l.wall.Number()
	}
	if i := slices.IndexFunc(l.paths, func(p path) bool { return p.dev == d.Number() }); i >= 0 {
		x.path = l.paths[i]
	}
	return x, nil
}

// canWait says whether a table over the wall can be loaded into the leg.
func (l layout) canWait() bool {
	return l.waits && l.wall.there && l.wall.disk != "" && l.wall.size >= l.size
}

// stands says whether a wall is as it has to be for p.
func (w wall) stands(p Path) bool {
	return w.there && !w.Suspended && !w.HasNewTable && w.disk == p.dev() && w.size == p.sectors()
}

// serves says whether the table sends I/O there, and it goes on to a disk.
func (x leg) serves() bool { return x.active && !x.Suspended && x.disk != "" }

// keeps says whether a leg sends nothing on before it is suspended.
func (x leg) keeps() bool { return x.waits || x.standsBy }

// fails says whether a leg has a table that fails whatever comes. It may have no write
// cache, and the kernel takes a flush to it for done then.
func (x leg) fails() bool { return x.HasTable && !x.keeps() && x.disk == "" }

// collects says whether the table sends I/O there, and it waits there.
func (x leg) collects() bool { return x.active && (x.Suspended || x.waits) }

// leads says whether a leg leads to p, or does once it is resumed.
func (x leg) leads(p Path) bool {
	return x.there && x.HasTable && x.disk == p.dev() && x.size == p.sectors()
}

// strange says whether something is loaded that nobody knows the origin of.
func (x leg) strange() bool { return x.HasNewTable && !x.ready }

// stuck says whether a suspend would wait for I/O under way, on another disk than p.
func (x leg) stuck(p Path) bool {
	return x.busy > 0 && !x.keeps() && !x.Suspended && x.disk != p.dev()
}

// direct is the table's path to the disk itself; the zero path if it has none.
func (l layout) direct() path {
	for _, p := range l.paths {
		if p.dev != l.leg.dev {
			return p
		}
	}
	return path{}
}

// over says whether the table has the paths that it has to have over p. Tables of
// earlier versions have no leg.
func (l layout) over(p Path) bool {
	return len(l.paths) == 2 && l.leg.dev != "" && l.direct().dev == p.dev()
}

// spare says whether the leg stands by beside a disk that works, and nothing has
// come. What the table counts to be under way may be less than what is: from a leg
// whose path has failed something may have to come back.
func (l layout) spare() bool {
	x := l.leg
	return x.standsBy && x.active && !x.Suspended && !x.inUse && x.busy == 0 && l.direct().active
}

// right says whether the table is as it has to be over p, but for what works.
func (l layout) right(p Path) bool {
	return l.over(p) && l.size == p.sectors() && !l.top.Suspended
}

// disk returns the device that I/O goes to, or went to last, and whether it does.
func (l layout) disk() (dev string, active bool) {
	d, x := l.direct(), l.leg
	takes := x.standsBy && x.active && x.inUse
	switch {
	case d.active && !takes:
		return d.dev, true
	case x.serves():
		return x.disk, true
	default:
		return d.dev, false
	}
}

// untidy says whether there is something to do to have the I/O go on to where it
// goes.
func (l layout) untidy() bool {
	dev, _ := l.disk()
	p := Path{SizeBytes: int64(l.size) * sectorSize}
	n, err := fmt.Sscanf(dev, "%d:%d", &p.Major, &p.Minor)
	return err != nil || n != 2 || !l.over(p) || len(l.plan(p)) > 0
}
