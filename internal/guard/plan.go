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
// p. In between I/O waits, or goes where it went before, or to p.
func (l layout) plan(p Path) (steps []step) {
	front := l.front(p)
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
	if !l.laid(p) {
		steps = append(append(steps, l.lead(back, p)...), step{load, top})
		if l.top.HasTable && !l.top.Suspended {
			steps = append(steps, step{suspend, top})
		}
		return append(steps, step{resume, top}, step{leave, back})
	}
	// A suspend would wait for what is under way there. It is asked again later.
	if x := l.legs[back]; x.Suspended || x.path.below == 0 {
		steps = append(steps, l.lead(back, p)...)
	}
	return steps
}

// turn has the table send its I/O through one leg and not through the other, in
// this order: in between it has a path.
func (l layout) turn(front int) (steps []step) {
	if !l.queues {
		steps = append(steps, step{queueing, top})
	}
	if !l.legs[front].active {
		steps = append(steps, step{reinstate, front})
	}
	if l.legs[1-front].active {
		steps = append(steps, step{leave, 1 - front})
	}
	return steps
}

// lead makes a leg lead to p.
func (l layout) lead(i int, p Path) []step {
	x := l.legs[i]
	switch {
	case x.on(p) && x.Suspended:
		return []step{{resume, i}}
	case x.on(p):
		return nil
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
	x := l.legs[spare]
	if !x.Suspended {
		steps = append(steps, step{suspend, spare})
	}
	if !x.active {
		steps = append(steps, step{reinstate, spare})
	}
	if l.legs[1-spare].active {
		steps = append(steps, step{leave, 1 - spare})
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
		if x.Suspended {
			steps = append(steps, step{spoil, i}, step{resume, i})
		}
	}
	return steps
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
	case spoil:
		return g.dm.Load(name, errorTable(c.layout.size, c.layout.legs[s.on].ReadOnly))
	case suspend:
		return g.dm.Suspend(name)
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
		front := c.layout.front(c.path)
		legs := c.layout.legs
		return g.dm.Load(name, multipathTable(legs[front].Number(), legs[1-front].Number(), c.path.sectors(), c.readOnly))
	}
	if err := g.dm.Load(name, linearTable(c.path, c.readOnly)); err != nil {
		return err
	}
	// The new table holds the device itself now; nothing has been sent there.
	if err := c.proof(); err != nil {
		return errors.Join(err, g.dm.Clear(name)) // or whoever resumes next puts it to use
	}
	return nil
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
