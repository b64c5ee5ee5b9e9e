//go:build !kernel

package guard

import (
	"errors"
	"fmt"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/dm"
)

// From all kinds of layouts a plan leads to what is well, and is short;
// holding and ending have plans that take no message to what is suspended.
func TestPlanAllLayouts(t *testing.T) {
	t.Parallel()
	n := 0
	eachLayout(func(l layout) {
		n++
		for what, steps := range map[string][]step{"feed": l.plan(pathA), "hold": l.planHold(), "end": l.planEnd(true), "stop": l.planEnd(false)} {
			if err := sensible(l, steps); err != nil || len(steps) > 22 {
				t.Fatalf("%s %+v: %q: %v", what, l, steps, err)
			}
		}
	})
	t.Logf("%d layouts", n)
}

func eachLayout(do func(layout)) {
	for _, x := range eachLeg() {
		for i := range 1 << 9 {
			bit := func(n int) bool { return i>>n&1 == 1 }
			l := layout{leg: x, size: pathA.sectors(), queues: bit(0), waits: bit(5)}
			l.top.Suspended, l.top.HasNewTable, l.top.HasTable = bit(1), bit(2), bit(3)
			l.wall = walls[i%len(walls)]
			if bit(4) {
				l.size = 1
			}
			direct := path{dev: pathA.dev(), active: bit(6)}
			if bit(7) {
				direct.dev = pathB.dev()
			}
			if bit(8) {
				direct.busy = 1
			}
			switch {
			case !l.top.HasTable:
				l.leg.path = path{}
			case x.there:
				l.leg.dev = "254:1"
				l.paths = []path{direct, l.leg.path}
			default:
				l.paths = []path{direct}
			}
			do(l)
		}
	}
}

var walls = []wall{
	{}, {there: true}, {there: true, Device: dm.Device{HasTable: true}, disk: pathA.dev(), size: pathA.sectors()},
	{there: true, Device: dm.Device{HasTable: true, Suspended: true}, disk: pathB.dev(), size: 1},
	{there: true, Device: dm.Device{HasTable: true, HasNewTable: true}, disk: pathA.dev(), size: pathA.sectors()},
}

func eachLeg() []leg {
	legs := []leg{{}}
	for _, table := range []leg{
		{}, {disk: pathA.dev(), size: pathA.sectors()}, {disk: pathA.dev(), size: 1}, {disk: pathB.dev(), size: pathA.sectors()},
		{waits: true, size: pathA.sectors()}, {size: pathA.sectors()},
		{standsBy: true, size: pathA.sectors()}, {standsBy: true, size: 1},
	} {
		for i := range 1 << 6 {
			bit := func(n int) bool { return i>>n&1 == 1 }
			x := table
			x.there, x.HasTable = true, x.size > 0
			x.active, x.Suspended, x.HasNewTable, x.ready = bit(0), bit(1), bit(2), bit(2) && bit(3)
			if bit(4) {
				x.busy = 1
			}
			x.inUse = bit(5)
			if x.HasTable || i == 0 {
				legs = append(legs, x)
			}
		}
	}
	return legs
}

// sensible plays steps as far as what is loaded and suspended goes.
func sensible(l layout, steps []step) error {
	suspended := map[object]bool{onTable: l.top.Suspended, onLeg: l.leg.Suspended, onWall: l.wall.Suspended}
	loaded := map[object]bool{}
	for _, s := range steps {
		switch s.do {
		case load, spoil, stand:
			loaded[s.on] = true
		case drop:
			loaded[s.on] = false
		case suspend:
			if err := l.sensibleSuspend(s, suspended[s.on]); err != nil {
				return err
			}
			suspended[s.on] = true
		case resume:
			suspended[s.on], loaded[s.on] = false, false
		case queueing, failing, reinstate, leave, prefer:
			if suspended[onTable] {
				return fmt.Errorf("%s: a message to a suspended table", s)
			}
		case create, prepare:
		}
	}
	if loaded[onTable] || loaded[onLeg] || loaded[onWall] {
		return errors.New("something loaded is not put to use")
	}
	return nil
}

func (l layout) sensibleSuspend(s step, suspended bool) error {
	d := l.direct()
	switch {
	case suspended:
		return fmt.Errorf("%s: it is", s)
	case s.on == onLeg && l.leg.stuck(pathA), s.on == onTable && (l.leg.stuck(pathA) || d.busy > 0 && d.dev != pathA.dev()):
		return fmt.Errorf("%s: it would wait", s)
	}
	return nil
}
