package guard

import (
	"errors"
	"fmt"

	"github.com/holdfast-csi/holdfast/internal/dm"
)

// step is one change of a device of a volume.
type step struct {
	do verb
	on int // the leg; top for the table itself
}

const top = -1

type verb string

const (
	create    verb = "create"
	drop      verb = "drop what was loaded into"
	load      verb = "load what leads to the disk into"
	prepare   verb = "load what waits into"
	spoil     verb = "load what fails into"
	suspend   verb = "suspend"
	resume    verb = "resume"
	queueing  verb = "queue, while there is no path, in"
	failing   verb = "fail, while there is no path, in"
	reinstate verb = "reinstate the path through"
	leave     verb = "fail the path through"
)

// String implements fmt.Stringer.
func (s step) String() string {
	if s.on == top {
		return string(s.do) + " the table"
	}
	return fmt.Sprintf("%s leg %s", s.do, legSuffixes[s.on][1:])
}

// plan is a pure function: what makes a volume that looks like l send its I/O to
// p. In between I/O waits, or goes where it went before, or to p. A leg that has
// I/O under way is not suspended for it, or only if that is on p itself: what
// cannot be done therefore is there to be done the next time.
func (l layout) plan(p Path) (steps []step) {
	front, ok := l.front(p)
	if !ok {
		return nil
	}
	back := 1 - front
	for i, x := range l.legs {
		if !x.there {
			steps = append(steps, step{create, i})
		}
	}
	steps = append(steps, l.lead(front, p)...)
	if l.top.HasNewTable {
		steps = append(steps, step{drop, top}) // nobody knows what it was for
	}
	if l.onLegs() && !l.top.Suspended { // which would take no messages (EBUSY)
		steps = append(steps, l.turn(front)...)
	}
	free := !l.legs[back].stuck(p)
	if free {
		steps = append(steps, l.lead(back, p)...)
	}
	if !l.laid(p) && (free || l.size == p.sectors()) {
		steps = append(steps, step{load, top})
		if l.top.HasTable && !l.top.Suspended {
			steps = append(steps, step{suspend, top})
		}
		steps = append(steps, step{resume, top}, step{leave, back})
	}
	if x := l.legs[back]; free && l.waits && (!x.ready || x.Suspended || !x.leads(p)) {
		steps = append(steps, step{prepare, back})
	}
	return steps
}

// turn has the table send its I/O through one leg and not through the other, in
// this order: in between it has a path. That of a leg that collected may have failed
// meanwhile: what it had kept comes back from nowhere, and read-ahead at once.
func (l layout) turn(front int) (steps []step) {
	if !l.queues {
		steps = append(steps, step{queueing, top})
	}
	if x := l.legs[front]; !x.active || x.waits || x.Suspended {
		steps = append(steps, step{reinstate, front})
	}
	if l.legs[1-front].active {
		steps = append(steps, step{leave, 1 - front})
	}
	return steps
}

// lead makes a leg lead to p. What it keeps is sent on by the suspend.
func (l layout) lead(i int, p Path) (steps []step) {
	x := l.legs[i]
	switch {
	case x.leads(p) && x.Suspended && x.HasNewTable:
		return []step{{drop, i}, {resume, i}} // or it would come with the resume
	case x.leads(p) && x.Suspended:
		return []step{{resume, i}}
	case x.leads(p) && x.strange():
		return []step{{drop, i}}
	case x.leads(p):
		return nil
	case x.waits && !x.Suspended:
		return []step{{suspend, i}, {load, i}, {resume, i}}
	case x.HasTable && !x.Suspended:
		return []step{{load, i}, {suspend, i}, {resume, i}}
	default:
		return []step{{load, i}, {resume, i}}
	}
}

// planHold has what comes wait in the spare leg. What is under way elsewhere stays
// there until it ends or fails. Nothing is done to a table that fails its I/O, or
// that takes no messages.
func (l layout) planHold() (steps []step) {
	if !l.top.HasTable || l.top.Suspended || !l.queues {
		return nil
	}
	if !l.onLegs() {
		return l.leaveAll()
	}
	spare, ok := l.spare()
	if !ok { // what comes waits in the table, at the price of a processor
		return l.leaveAll()
	}
	steps = l.legs[spare].collect(spare)
	if l.legs[1-spare].active {
		steps = append(steps, step{leave, 1 - spare})
	}
	return steps
}

// collect has a leg keep what comes. A table that waits is resumed anew: one whose
// suspend was interrupted waits no more (dm-delay.c, may_delay).
func (x leg) collect(i int) (steps []step) {
	if x.collects() && !x.Suspended {
		return nil
	}
	if !x.Suspended {
		steps = append(steps, step{suspend, i})
	}
	if x.waits && x.strange() {
		steps = append(steps, step{drop, i})
	}
	if x.waits || x.ready {
		steps = append(steps, step{resume, i})
	}
	if !x.active {
		steps = append(steps, step{reinstate, i})
	}
	return steps
}

// planEnd has what waits fail, and what comes. With now what is below is not
// waited for either: it may wait too, and as long as it likes.
func (l layout) planEnd(now bool) (steps []step) {
	if !l.top.HasTable {
		return nil
	}
	if l.top.Suspended {
		// On the table that it had: who could vouch for another is gone.
		steps = append(steps, step{drop, top}, step{resume, top})
	}
	steps = append(steps, step{failing, top})
	if now {
		steps = append(steps, l.leaveAll()...)
	}
	for i, x := range l.legs {
		if x.waits && !x.Suspended {
			steps = append(steps, step{suspend, i})
		}
		if x.waits || x.Suspended {
			steps = append(steps, step{spoil, i}, step{resume, i})
		}
	}
	return steps
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
	if !l.onLegs() {
		if len(l.paths) > 0 && l.paths[0].active {
			return []step{{leave, top}} // the table's only path
		}
		return nil
	}
	for i, x := range l.legs {
		if x.active {
			steps = append(steps, step{leave, i})
		}
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

func (g *Guards) carryOut(c change, steps []step) error {
	for _, s := range steps {
		if err := g.take(&c, s); err != nil {
			return fmt.Errorf("guard %s: %s: %w", c.name, s, err)
		}
	}
	return nil
}

func (g *Guards) take(c *change, s step) error {
	name := c.name
	if s.on != top {
		name += legSuffixes[s.on]
	}
	switch s.do {
	case create:
		d, err := g.dm.Create(name, uuidOf(name))
		c.layout.legs[s.on].Device = d
		return err
	case drop:
		return g.dm.Clear(name)
	case load:
		return g.load(c, s.on, name)
	case prepare:
		return g.prepare(c, name)
	case spoil:
		return g.dm.Load(name, errorTable(c.layout.size, c.layout.legs[s.on].ReadOnly))
	case suspend:
		return g.suspend(c, name)
	case resume:
		_, err := g.dm.Resume(name, dm.NoScan)
		return err
	default:
		return g.dm.Message(c.name, c.message(s))
	}
}

// load loads a leg, or the table above both.
func (g *Guards) load(c *change, on int, name string) error {
	if on == top {
		front, _ := c.layout.front(c.path)
		legs := c.layout.legs
		return g.dm.Load(name, multipathTable(legs[front].Number(), legs[1-front].Number(), c.path.sectors(), c.readOnly))
	}
	if err := g.dm.Load(name, linearTable(c.path, c.readOnly)); err != nil {
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

// suspend may have waited for long: what was proven before is proven again.
func (g *Guards) suspend(c *change, name string) error {
	if err := g.dm.Suspend(name); err != nil {
		return err
	}
	return g.proven(c, name)
}

func (c *change) message(s step) string {
	var dev string
	switch {
	case s.do == queueing:
		return "queue_if_no_path"
	case s.do == failing:
		return "fail_if_no_path"
	case s.on == top: // of one path
		dev = c.layout.paths[0].dev
	default:
		dev = c.layout.legs[s.on].Number()
	}
	if s.do == reinstate {
		return "reinstate_path " + dev
	}
	return "fail_path " + dev
}
