package guard

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/dm"
	"github.com/holdfast-csi/holdfast/internal/urgent"
)

// step is one change of a device of a volume.
type step struct {
	do verb
	on object
}

// object is what a step is about.
type object string

const (
	onTable object = "the table"
	onLeg   object = "the leg"
	onWall  object = "the wall"
	onDisk  object = "the disk"
)

type verb string

const (
	create    verb = "create"
	drop      verb = "drop what was loaded into"
	load      verb = "load what is over the disk into"
	stand     verb = "load what stands by into"
	prepare   verb = "load what waits into"
	spoil     verb = "load what fails into"
	suspend   verb = "suspend"
	resume    verb = "resume"
	queueing  verb = "queue, while there is no path, in"
	failing   verb = "fail, while there is no path, in"
	reinstate verb = "reinstate the path through"
	leave     verb = "fail the path through"
	prefer    verb = "turn to"
)

// String implements fmt.Stringer.
func (s step) String() string { return string(s.do) + " " + string(s.on) }

// plan is a pure function: what makes a volume that looks like l send its I/O to
// p. In between I/O waits, or goes where it went before, or to p. The table is
// suspended only while it has a path. Nothing is suspended that has I/O under way,
// unless that is on p itself: it is left as it is, and a plan for it comes of a
// later look.
func (l layout) plan(p Path) (steps []step) {
	steps = append(l.open(), l.begin(p)...)
	if l.leg.stuck(p) {
		return steps
	}
	if !l.right(p) || l.leg.Suspended || !l.waits {
		steps = append(steps, l.lead(p)...)
	}
	if !l.over(p) && l.leg.dev != "" && !l.top.Suspended { // until the table has the disk itself
		steps = append(steps, l.detour()...)
	}
	if d := l.direct(); d.busy > 0 && d.dev != p.dev() && !l.top.Suspended {
		return steps
	}
	if l.waits {
		steps = append(steps, l.build(p)...)
	}
	if !l.right(p) {
		steps = append(steps, reload(onTable, l.top)...)
		steps = append(steps, step{leave, onLeg})
	}
	if l.waits {
		steps = append(steps, l.standBy(p)...)
	}
	return steps
}

// open has a wall answer that was left suspended: or whatever suspends a leg that
// keeps something would wait for it. There is never anything under way in a wall.
func (l layout) open() (steps []step) {
	if !l.wall.Suspended || !l.wall.HasTable {
		return nil
	}
	if l.wall.HasNewTable {
		steps = append(steps, step{drop, onWall})
	}
	return append(steps, step{resume, onWall})
}

// standBy makes the leg the second path of a table that has the disk itself. What it
// keeps is sent on by the suspend; its path has failed by then. A path that was in
// use stays in use while it works, so the table is told which it has to be.
func (l layout) standBy(p Path) []step {
	if l.right(p) && l.spare() && l.leg.ready && l.leg.size == p.sectors() {
		return nil
	}
	return []step{{stand, onLeg}, {suspend, onLeg}, {resume, onLeg}, {prepare, onLeg}, {prefer, onDisk}, {reinstate, onLeg}}
}

// begin is what waits for nothing.
func (l layout) begin(p Path) (steps []step) {
	if !l.leg.there {
		steps = append(steps, step{create, onLeg})
	}
	if l.top.HasNewTable {
		steps = append(steps, step{drop, onTable}) // nobody knows what it was for
	}
	switch {
	case l.top.Suspended: // which takes no messages (EBUSY)
	case l.direct().dev == p.dev():
		steps = append(steps, l.turn(p)...)
	case l.leg.dev != "" && l.leg.keeps():
		steps = append(steps, l.empty()...)
	}
	return steps
}

// empty is done before what the leg keeps comes back: it shall wait then, and not go
// to the disk of before.
func (l layout) empty() (steps []step) {
	if !l.queues {
		steps = append(steps, step{queueing, onTable})
	}
	if l.direct().active && !l.spare() {
		steps = append(steps, step{leave, onDisk})
	}
	if l.leg.active {
		steps = append(steps, step{leave, onLeg})
	}
	return steps
}

// reload gives a device a fresh table. One without a table, or that is suspended
// already, is not suspended for it.
func reload(on object, d dm.Device) []step {
	if d.HasTable && !d.Suspended {
		return []step{{load, on}, {suspend, on}, {resume, on}}
	}
	return []step{{load, on}, {resume, on}}
}

// build makes the wall one for p.
func (l layout) build(p Path) (steps []step) {
	if l.wall.stands(p) {
		return nil
	}
	if !l.wall.there {
		steps = append(steps, step{create, onWall})
	}
	return append(steps, reload(onWall, l.wall.Device)...)
}

// turn has the table send its I/O to the disk and not through the leg, which may stay
// as it is if it stands by and nothing is to be done about it.
func (l layout) turn(p Path) []step {
	spare := l.waits && l.right(p) && l.spare()
	return l.route(onDisk, l.direct().active, onLeg, l.leg.active && !spare)
}

// detour is the opposite. The path of a leg that collected may have failed
// meanwhile: what it had kept comes back from the wall, and read-ahead at once.
func (l layout) detour() []step {
	return l.route(onLeg, l.leg.serves(), onDisk, l.direct().active)
}

// route sends I/O one way, unless it serves already, and then not the other, if it
// is in use: in between the table has a path.
func (l layout) route(to object, serves bool, from object, used bool) (steps []step) {
	if !l.queues {
		steps = append(steps, step{queueing, onTable})
	}
	if !serves {
		steps = append(steps, step{reinstate, to})
	}
	if used {
		steps = append(steps, step{leave, from})
	}
	return steps
}

// lead makes the leg lead to p. What it keeps is sent on by the suspend.
func (l layout) lead(p Path) (steps []step) {
	x := l.leg
	switch {
	case x.leads(p) && x.Suspended && x.HasNewTable:
		return []step{{drop, onLeg}, {resume, onLeg}} // or it would come with the resume
	case x.leads(p) && x.Suspended:
		return []step{{resume, onLeg}}
	case x.leads(p) && x.strange():
		return []step{{drop, onLeg}}
	case x.leads(p):
		return nil
	default:
		return reload(onLeg, x.Device)
	}
}

// planHold has what comes wait in the leg. What is under way elsewhere stays there
// until it ends or fails. Nothing is done to a table that takes no messages. One that
// does not queue was left so by a suspend that was interrupted.
func (l layout) planHold() (steps []step) {
	if !l.top.HasTable || l.top.Suspended {
		return nil
	}
	steps = l.open()
	if !l.queues {
		steps = append(steps, step{queueing, onTable})
	}
	if !l.canCollect() {
		// What comes waits in the table, at the price of a processor.
		return append(steps, l.leaveAll()...)
	}
	if !l.direct().active {
		return append(steps, l.collect()...)
	}
	if l.leg.keeps() && !l.spare() { // what it kept shall not go to the disk
		return append(append(steps, step{leave, onDisk}), l.collect()...)
	}
	return append(append(steps, l.collect()...), step{leave, onDisk})
}

// canCollect says whether a leg has nothing to wait for in a suspend, if it takes
// one: no I/O of the table, and nobody else who has it open and may read it; and is
// not one where a flush would not wait.
func (l layout) canCollect() bool {
	x := l.leg
	if x.fails() && !l.canWait() {
		return false
	}
	return x.dev != "" && (x.keeps() || x.Suspended || x.busy == 0 && x.OpenCount <= 1)
}

// collect has the leg keep what comes. A table that waits is resumed anew: one whose
// suspend was interrupted waits no more (dm-delay.c, may_delay). What one that stood
// by kept comes back from the wall, and the path fails. One that leads to a disk gets
// nothing more before it is suspended.
func (l layout) collect() []step {
	x := l.leg
	if x.collects() && !x.Suspended {
		return nil
	}
	steps, comes := l.fresh()
	if x.active && !x.Suspended && !x.keeps() {
		steps = append(steps, step{leave, onLeg})
	}
	if !x.Suspended {
		steps = append(steps, step{suspend, onLeg})
	}
	if comes {
		steps = append(steps, step{resume, onLeg})
	}
	return append(steps, step{reinstate, onLeg})
}

// fresh sees to it that the table in which what comes waits is the one that the next
// resume of the leg brings, and says whether it is.
func (l layout) fresh() (steps []step, comes bool) {
	switch x := l.leg; {
	case x.waits && x.strange():
		return []step{{drop, onLeg}}, true
	case x.waits || x.ready:
		return nil, true
	case l.canWait():
		return []step{{prepare, onLeg}}, true
	default:
		return nil, false
	}
}

// planEnd has what waits fail, and what comes. With now what is below is not
// waited for either: it may wait too, and as long as it likes.
func (l layout) planEnd(now bool) (steps []step) {
	if !l.top.HasTable {
		return nil
	}
	steps = l.open()
	if l.top.Suspended {
		// On the table that it had: who could vouch for another is gone.
		steps = append(steps, step{drop, onTable}, step{resume, onTable})
	}
	steps = append(steps, step{failing, onTable})
	switch {
	case now:
		steps = append(steps, l.leaveAll()...)
	case l.leg.active && !l.leg.serves(): // or what comes would wait there, or a flush be done
		steps = append(steps, step{leave, onLeg})
	}
	return append(steps, l.leg.spill()...)
}

// spill has a leg fail what it keeps, and what comes.
func (x leg) spill() (steps []step) {
	if x.keeps() && !x.Suspended {
		steps = append(steps, step{suspend, onLeg})
	}
	if x.keeps() || x.Suspended {
		steps = append(steps, step{spoil, onLeg}, step{resume, onLeg})
	}
	return steps
}

// leading are the steps after which I/O goes through the leg.
func leading(steps []step) []step {
	n := slices.IndexFunc(steps, func(s step) bool {
		return s == step{create, onWall} || s == step{load, onWall} || s == step{load, onTable}
	})
	if n < 0 {
		return steps
	}
	return steps[:n]
}

// messages are those of the steps that neither wait for anything nor disturb what
// another call does.
func messages(steps []step) (out []step) {
	for _, s := range steps {
		if s.do == failing || s.do == leave {
			out = append(out, s)
		}
	}
	return out
}

func (l layout) leaveAll() (steps []step) {
	if l.direct().active {
		steps = append(steps, step{leave, onDisk})
	}
	if l.leg.active {
		steps = append(steps, step{leave, onLeg})
	}
	return steps
}

// change is what the steps for one volume are carried out with.
type change struct {
	name     string
	layout   layout
	path     Path
	readOnly bool
	proof    Proof
}

// carryOut does not wait for memory: it may be what memory waits for.
func (g *Guards) carryOut(c *change, steps []step) error {
	return urgent.Do(func() error {
		for _, s := range steps {
			if err := g.take(c, s); err != nil {
				return fmt.Errorf("guard %s: %s: %w", c.name, s, err)
			}
		}
		return nil
	})
}

func (g *Guards) take(c *change, s step) error {
	name := c.name
	switch s.on {
	case onLeg:
		name += legSuffix
	case onWall:
		name += wallSuffix
	case onTable, onDisk:
	}
	switch s.do {
	case create:
		return g.create(c, s.on, name)
	case drop:
		return g.dm.Clear(name)
	case load:
		return g.load(c, s.on, name)
	case stand:
		return g.dm.Load(name, standbyTable(c.layout.wall.Number(), c.path.sectors(), c.readOnly))
	case prepare:
		return g.dm.Load(name, c.waitTable())
	case spoil:
		return g.dm.Load(name, c.failTable())
	case suspend:
		return g.suspend(c, name)
	case resume:
		_, err := g.dm.Resume(name, dm.NoScan)
		return err
	default:
		return g.dm.Message(c.name, c.message(s))
	}
}

// failTable is what is loaded into a leg that shall fail whatever comes.
func (c *change) failTable() dm.Table {
	l := c.layout
	if l.canWait() {
		return wallTable(l.wall.Number(), l.size, l.leg.ReadOnly)
	}
	return errorTable(l.size, l.leg.ReadOnly)
}

// waitTable is for the disk that is fed, or for the table as it is.
func (c *change) waitTable() dm.Table {
	if c.path == (Path{}) {
		return waitTable(c.layout.wall.Number(), c.layout.size, c.layout.top.ReadOnly)
	}
	return waitTable(c.layout.wall.Number(), c.path.sectors(), c.readOnly)
}

func (g *Guards) create(c *change, on object, name string) error {
	d, err := g.dm.Create(name, uuidOf(name))
	if on == onWall {
		c.layout.wall.Device = d
	} else {
		c.layout.leg.Device = d
	}
	return err
}

// load loads what leads to the disk: directly, with the leg beside it, or the leg;
// or the wall that passes for it.
func (g *Guards) load(c *change, on object, name string) error {
	t := linearTable(c.path, c.readOnly)
	switch on {
	case onTable:
		t = multipathTable(c.path.dev(), c.layout.leg.Number(), c.path.sectors(), c.readOnly)
	case onWall:
		t = wallTable(c.path.dev(), c.path.sectors(), c.readOnly)
	case onLeg, onDisk:
	}
	if err := g.dm.Load(name, t); err != nil {
		return err
	}
	// The new table holds the device itself now; nothing has been sent there.
	return g.proven(c, name)
}

// proven drops what was loaded if the proof is refused, or whoever resumes next
// puts it to use.
func (g *Guards) proven(c *change, name string) error {
	if c.proof == nil {
		return nil
	}
	if err := c.proof(); err != nil {
		return errors.Join(err, g.dm.Clear(name))
	}
	return nil
}

// suspend may have waited for long: what was proven before is proven again. Any
// signal interrupts it, of which the runtime and programs that end send some.
func (g *Guards) suspend(c *change, name string) (err error) {
	for range suspendTries {
		if err = g.dm.Suspend(name); err == nil {
			return g.proven(c, name)
		}
		if name == c.name && c.layout.queues { // which an interrupted suspend has ended
			err = errors.Join(err, g.dm.Message(name, c.message(step{queueing, onTable})))
		}
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return err
}

// suspendTries is how often a suspend may be interrupted.
const suspendTries = 5

func (c *change) message(s step) string {
	dev := c.layout.direct().dev
	if s.on == onLeg {
		dev = c.layout.leg.Number()
	}
	switch s.do {
	case queueing:
		return "queue_if_no_path"
	case failing:
		return "fail_if_no_path"
	case reinstate:
		return "reinstate_path " + dev
	case prefer:
		return "switch_group 1" // the disk's
	default:
		return "fail_path " + dev
	}
}
