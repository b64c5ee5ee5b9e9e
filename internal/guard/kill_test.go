//go:build !kernel

package guard

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// starts are the states a volume can be in before a call: what people, outages
// and killed processes leave. No disk stays dead: the one that is fed is there.
var starts = map[string]func(f *fake){
	"live":            func(*fake) {},
	"lost":            func(f *fake) { lose(f, pathA) },
	"held":            holdNow,
	"lost, held":      func(f *fake) { lose(f, pathA); holdNow(f) },
	"silent, held":    func(f *fake) { silence(f); holdNow(f) },
	"given up":        giveUpNow,
	"loaded":          loadTable,
	"leg loaded":      loadLeg,
	"held, loaded":    func(f *fake) { holdNow(f); loadLeg(f) },
	"suspended":       func(f *fake) { suspendNow(f, table) },
	"leg suspended":   func(f *fake) { suspendNow(f, table+legSuffix) },
	"all suspended":   func(f *fake) { suspendNow(f, table); suspendNow(f, table+legSuffix) },
	"swapped, held":   func(f *fake) { f.do(feedB); holdNow(f) },
	"left busy":       func(f *fake) { silence(f); holdNow(f); f.do(feedB) },
	"left busy, held": func(f *fake) { silence(f); holdNow(f); f.do(feedB); holdNow(f) },
	"of one path":     oldTable,
}

// kernels are those with the target that lets I/O wait, and those without.
var kernels = map[string]bool{"delay": false, "no delay": true}

// silence has a disk not answer, with one that waits there.
func silence(f *fake) {
	f.set(func() { f.silent[pathA.dev()] = true })
	f.send(table)
}

// targets are the paths to feed: the one below, others, and it having grown.
var targets = map[string]Path{"same": pathA, "another": pathB, "grown": grown}

// startedAt is a table on A in one of the states, with I/O that was sent to it.
func startedAt(t *testing.T, start func(*fake), noDelay bool) *fake {
	t.Helper()
	f := newFake()
	f.noDelay = noDelay
	onAOf(t, f)
	start(f)
	f.send(table)
	f.readAhead(table)
	f.flush(table)
	f.set(func() { clear(f.dead); clear(f.silent) })
	f.mend()
	return f
}

// everyFault runs a call with a fault in its first mapper call, its second, and
// so on, in every kind, until the call gets through. It returns how many calls
// there are.
func everyFault(t *testing.T, prepare func() *fake, call func(*fake) error, check func(f *fake)) (calls int) {
	t.Helper()
	for _, kind := range faultKinds {
		for n := 1; ; n++ {
			f := prepare()
			f.breakAt(n, kind)
			err := call(f)
			done := dumpCalls(f)
			hit := f.mend()
			if hit && !errors.Is(err, errFault) {
				t.Fatalf("%v call %d (%s): got %v", kind, n, done, err)
			}
			if !hit {
				must(t, err)
				calls = n - 1
				break
			}
			if n > 40 {
				t.Fatalf("no end: %s", done)
			}
			func() {
				defer func() {
					if t.Failed() {
						t.Logf("it %v call %d of: %s", kind, n, done)
					}
				}()
				check(f)
			}()
		}
	}
	return calls
}

// feedAfresh feeds as a process does that has just been started.
func feedAfresh(f *fake, p Path) error {
	g, o := f.guards()
	return errors.Join(g.Feed(table, p, false, o.proof), o.balanced())
}

// holdAfresh and giveUpAfresh do the same.
func holdAfresh(f *fake) error {
	g, _ := f.guards()
	return g.Hold(table)
}

func giveUpAfresh(f *fake) error {
	g, _ := f.guards()
	return g.GiveUp(table)
}

// wantNoLoss fails if I/O has ended with an error, though nobody gave it up, or on
// a disk that was not fed; once it is over, if any still waits.
func wantNoLoss(t *testing.T, f *fake, over bool, fed ...Path) {
	t.Helper()
	for _, x := range f.ios {
		right := x.end == "" && !over
		for _, p := range append(fed, pathA) {
			right = right || x.end == p.dev()
		}
		if !right {
			t.Fatalf("I/O ended %q at %s: %s", x.end, x.at, f.text(table))
		}
	}
}

// A Feed that was killed anywhere, from any state, to any path, is healed by
// the next one, to the same path or to another; in between nothing fails, and
// nothing reaches what was not fed.
func TestFeedKilled(t *testing.T) {
	t.Parallel()
	for from, start := range starts {
		for to, p := range targets {
			for on, noDelay := range kernels {
				t.Run(from+" to "+to+", "+on, func(t *testing.T) {
					t.Parallel()
					for _, next := range []Path{p, pathA, pathB} {
						feedKilled(t, from, start, noDelay, p, next)
					}
				})
			}
		}
	}
}

func feedKilled(t *testing.T, from string, start func(*fake), noDelay bool, p, next Path) {
	everyFault(t, func() *fake { return startedAt(t, start, noDelay) },
		func(f *fake) error { return feedAfresh(f, p) },
		func(f *fake) {
			if from != "given up" {
				f.send(table)
				wantNoLoss(t, f, false, p, pathB)
			}
			must(t, feedAfresh(f, next))
			f.wantWell(t, table, next)
			if from != "given up" {
				f.send(table)
				wantNoLoss(t, f, true, p, next, pathB)
			}
		})
}

// A Hold that was killed anywhere loses nothing, whatever becomes of the disk
// meanwhile, and the next Hold or Feed goes on from there.
func TestHoldKilled(t *testing.T) {
	t.Parallel()
	for from, start := range starts {
		if from == "given up" || from == "of one path" {
			continue
		}
		for on, noDelay := range kernels {
			for _, dead := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, dead %v, %s", from, dead, on), func(t *testing.T) {
					t.Parallel()
					holdKilled(t, start, noDelay, dead)
				})
			}
		}
	}
}

func holdKilled(t *testing.T, start func(*fake), noDelay, dead bool) {
	everyFault(t, func() *fake { return startedAt(t, start, noDelay) }, holdAfresh, func(f *fake) {
		f.set(func() { f.dead[pathA.dev()] = dead })
		f.send(table)
		f.readAhead(table)
		must(t, holdAfresh(f))
		wantNoLoss(t, f, false, pathB)
		must(t, feedAfresh(f, pathB))
		f.wantWell(t, table, pathB)
		wantNoLoss(t, f, true, pathB)
	})
}

// A swap has as many steps as it takes, and each was broken above.
func TestFeedKilledReachesAll(t *testing.T) {
	t.Parallel()
	n := everyFault(t, func() *fake { return startedAt(t, holdNow, false) }, func(f *fake) error { return feedAfresh(f, pathB) },
		func(*fake) {})
	if n != 34 { // four looks of four; a message; load, suspend, resume of the leg and a message; load, suspend, resume of the table and a message; load, suspend, resume of the wall, and of the leg; what waits; two messages
		t.Errorf("%d calls", n)
	}
}

// Killed twice in a row, at any two steps.
func TestFeedKilledTwice(t *testing.T) {
	t.Parallel()
	everyFault(t, func() *fake { return startedAt(t, starts["lost, held"], false) }, func(f *fake) error { return feedAfresh(f, pathB) },
		func(f *fake) {
			for n := 1; n < 28; n++ {
				for _, kind := range faultKinds {
					f.breakAt(n, kind)
					_ = feedAfresh(f, pathC)
					f.mend()
					wantNoLoss(t, f, false, pathB, pathC)
				}
			}
			must(t, feedAfresh(f, pathB))
			f.wantWell(t, table, pathB)
			wantNoLoss(t, f, true, pathB, pathC)
		})
}

func TestEnsureKilled(t *testing.T) {
	t.Parallel()
	ensure := func(f *fake, p Path) error {
		g, o := f.guards()
		_, err := g.Ensure(t.Context(), table, p, false, o.proof)
		return errors.Join(err, o.balanced())
	}
	for name, next := range map[string]Path{"same": pathA, "another": pathB} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := everyFault(t, newFake, func(f *fake) error { return ensure(f, pathA) },
				func(f *fake) {
					must(t, ensure(f, next))
					f.wantWell(t, table, next)
					if len(f.devices) != 3 {
						t.Errorf("devices: %v", f.devices)
					}
				})
			if n != 23 { // create; twice a look of three; create, load, resume of the leg; load, resume of the table; leave; create, load, resume of the wall; load, suspend, resume of the leg; what waits; two messages; get
				t.Errorf("%d calls", n)
			}
		})
	}
}

// A Remove that was killed is gone on with.
func TestRemoveKilled(t *testing.T) {
	t.Parallel()
	remove := func(f *fake) error { g, _ := f.guards(); return g.Remove(t.Context(), table) }
	everyFault(t, func() *fake { f, _, _ := onA(t); return f }, remove, func(f *fake) {
		if g, _ := f.guards(); len(f.devices) > 0 {
			if list, err := g.List(); err != nil || len(list) != 1 {
				t.Errorf("what is left of %v is listed as %v, %v", f.devices, list, err)
			}
		}
		must(t, remove(f))
		if len(f.devices) != 0 {
			t.Errorf("left: %v", f.devices)
		}
	})
}

// What a killed swap left can be given up at once: nothing waits any more, and
// nothing is sent to a disk that was not put to use before.
func TestGiveUpAfterKill(t *testing.T) {
	t.Parallel()
	for from, start := range starts {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			everyFault(t, func() *fake { return startedAt(t, start, false) }, func(f *fake) error { return feedAfresh(f, pathB) },
				func(f *fake) {
					f.set(func() { f.dead[pathA.dev()], f.dead[pathB.dev()] = true, true })
					must(t, giveUpAfresh(f))
					wantGivenUp(t, f)
					f.set(func() { clear(f.dead) })
					must(t, feedAfresh(f, pathB))
					f.wantWell(t, table, pathB)
				})
		})
	}
}

// Giving up can be killed as well.
func TestGiveUpKilled(t *testing.T) {
	t.Parallel()
	for from, start := range starts {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			for _, noDelay := range kernels {
				everyFault(t, func() *fake { return startedAt(t, start, noDelay) }, giveUpAfresh, func(f *fake) {
					must(t, giveUpAfresh(f))
					wantGivenUp(t, f)
				})
			}
		})
	}
}

// What waits after a hold that was killed fails once it is given up; a flush as well.
func TestGiveUpAfterHoldKill(t *testing.T) {
	t.Parallel()
	for from, start := range starts {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			everyFault(t, func() *fake { return startedAt(t, start, false) }, holdAfresh, func(f *fake) {
				f.set(func() { f.dead[pathA.dev()], f.dead[pathB.dev()] = true, true })
				f.flush(table)
				must(t, giveUpAfresh(f))
				wantGivenUp(t, f)
			})
		})
	}
}

// A proof that is refused, before a leg is loaded or after, leaves what was in use
// in use, and nothing beside it that somebody's resume could put to use.
func TestProofRefused(t *testing.T) {
	t.Parallel()
	for from, start := range starts {
		for to, p := range targets {
			for refused := 1; refused <= 6; refused++ {
				t.Run(fmt.Sprintf("%s to %s, proof %d", from, to, refused), func(t *testing.T) {
					t.Parallel()
					proofRefused(t, startedAt(t, start, false), p, refused)
				})
			}
		}
	}
}

var errProof = errors.New("not the right device")

func proofRefused(t *testing.T, f *fake, p Path, refused int) {
	leads := func() bool {
		d := f.devices[table+legSuffix]
		return d != nil && d.live != nil && d.live.path == p.dev()
	}
	led := leads()
	g, o := f.guards()
	asked := 0
	err := g.Feed(table, p, false, func() error {
		if asked++; asked == refused {
			return errProof
		}
		return o.proof()
	})
	if asked < refused { // there was nothing more to load
		must(t, err)
		f.wantWell(t, table, p)
		return
	}
	if !errors.Is(err, errProof) {
		t.Fatalf("got %v", err)
	}
	must(t, o.balanced())
	for _, name := range []string{table, table + legSuffix} {
		if d := f.devices[name]; d != nil && d.fresh != nil && (d.fresh.path == p.dev() || slices.Contains(d.fresh.paths, p.dev())) {
			t.Errorf("what nobody vouches for is left: %s", f.text(table))
		}
	}
	if refused <= 2 && leads() && !led {
		t.Errorf("it is in use: %s", f.text(table))
	}
	must(t, feedAfresh(f, p))
	f.wantWell(t, table, p)
}

// What was refused and could not be dropped is reported with both errors, and
// dropped by the next call.
func TestProofRefusedAndClearFails(t *testing.T) {
	t.Parallel()
	f, g, _ := onA(t)
	f.breakAt(18, faultKind{}) // three times status, three tables and what is loaded; a message; load, clear
	asked := 0
	err := g.Feed(table, pathB, false, func() error {
		if asked++; asked == 3 {
			return errProof
		}
		return nil
	})
	if !errors.Is(err, errProof) || !errors.Is(err, errFault) {
		t.Errorf("got %v", err)
	}
	f.mend()
	must(t, feedAfresh(f, pathA))
	f.wantWell(t, table, pathA)
}
