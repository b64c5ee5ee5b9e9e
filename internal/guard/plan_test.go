//go:build !kernel

package guard

import (
	"errors"
	"fmt"
	"testing"
)

// From all kinds of layouts a plan leads to what is well, and is short;
// holding and ending have plans that take no message to what is suspended.
func TestPlanAllLayouts(t *testing.T) {
	t.Parallel()
	n := 0
	eachLayout(func(l layout) {
		n++
		for what, steps := range map[string][]step{"feed": l.plan(pathA), "hold": l.planHold(), "end": l.planEnd(true), "stop": l.planEnd(false)} {
			if err := sensible(l, steps); err != nil || len(steps) > 16 {
				t.Fatalf("%s %+v: %q: %v", what, l, steps, err)
			}
		}
	})
	t.Logf("%d layouts", n)
}

func eachLayout(do func(layout)) {
	legs := []leg{{}}
	for _, table := range []leg{
		{}, {disk: pathA.dev(), size: pathA.sectors()}, {disk: pathA.dev(), size: 1}, {disk: pathB.dev(), size: pathA.sectors()},
		{waits: true, size: pathA.sectors()}, {size: pathA.sectors()},
	} {
		for i := range 1 << 5 {
			bit := func(n int) bool { return i>>n&1 == 1 }
			x := table
			x.there, x.HasTable = true, x.size > 0
			x.active, x.Suspended, x.HasNewTable, x.ready = bit(0), bit(1), bit(2), bit(2) && bit(3)
			if bit(4) {
				x.busy = 1
			}
			if x.HasTable || i == 0 {
				legs = append(legs, x)
			}
		}
	}
	n := 0
	for _, a := range legs {
		for _, b := range legs {
			for i := range 1 << 6 {
				if n++; n%7 != 0 { // a good part of them, and never the same bits
					continue
				}
				bit := func(n int) bool { return i>>n&1 == 1 }
				l := layout{legs: [2]leg{a, b}, size: pathA.sectors(), queues: bit(0), waits: bit(5)}
				l.top.Suspended, l.top.HasNewTable, l.top.HasTable = bit(1), bit(2), bit(3)
				if bit(4) {
					l.size = 1
				}
				if l.top.HasTable && a.there && b.there {
					l.legs[0].dev, l.legs[1].dev = "254:1", "254:2"
					l.paths = []path{l.legs[0].path, l.legs[1].path}
				} else {
					l.legs[0].path, l.legs[1].path = path{}, path{}
				}
				do(l)
			}
		}
	}
}

// sensible plays steps as far as what is loaded and suspended goes.
func sensible(l layout, steps []step) error {
	suspended := map[int]bool{top: l.top.Suspended, 0: l.legs[0].Suspended, 1: l.legs[1].Suspended}
	loaded := map[int]bool{}
	for _, s := range steps {
		switch s.do {
		case load, spoil:
			loaded[s.on] = true
		case drop:
			loaded[s.on] = false
		case suspend:
			if suspended[s.on] {
				return fmt.Errorf("%s: it is", s)
			}
			if s.on != top && l.legs[s.on].stuck(pathA) {
				return fmt.Errorf("%s: it would wait", s)
			}
			suspended[s.on] = true
		case resume:
			suspended[s.on], loaded[s.on] = false, false
		case queueing, failing, reinstate, leave:
			if suspended[top] {
				return fmt.Errorf("%s: a message to a suspended table", s)
			}
		case create, prepare:
		}
	}
	if loaded[top] || loaded[0] || loaded[1] {
		return errors.New("something loaded is not put to use")
	}
	return nil
}
