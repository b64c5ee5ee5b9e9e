package guard

import (
	"errors"
	"fmt"
	"testing"
)

// starts are the states a table can be in before a call: what people, outages
// and killed processes leave.
var starts = map[string]func(f *fake) error{
	"live":     func(*fake) error { return nil },
	"held":     func(f *fake) error { return f.Message(table, "fail_path "+pathA.dev()) },
	"given up": giveUp,
	"loaded":   loadC,
	"suspended": func(f *fake) error {
		return f.Suspend(table)
	},
	"held, suspended": func(f *fake) error {
		return errors.Join(f.Message(table, "fail_path "+pathA.dev()), f.Suspend(table))
	},
	"given up, suspended": func(f *fake) error { return errors.Join(giveUp(f), f.Suspend(table)) },
	"loaded, suspended":   func(f *fake) error { return errors.Join(loadC(f), f.Suspend(table)) },
}

func giveUp(f *fake) error {
	return errors.Join(f.Message(table, "fail_if_no_path"), f.Message(table, "fail_path "+pathA.dev()))
}

func loadC(f *fake) error { return f.Load(table, multipathTable(pathC, false)) }

// targets are the paths to feed: the one below, others, and it having grown.
var targets = map[string]Path{"same": pathA, "another": pathB, "grown": grown}

// startedAt is a table on A in one of the states.
func startedAt(t *testing.T, start func(*fake) error) *fake {
	t.Helper()
	f, _, _ := onA(t)
	must(t, start(f))
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
			if n > 20 {
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

func (o *opener) balanced() error {
	if o.opened != o.closed {
		return fmt.Errorf("opened %d times, closed %d times", o.opened, o.closed)
	}
	return nil
}

// A Feed that was killed anywhere, from any state, to any path, is healed by
// the next one, to the same path or to another.
func TestFeedKilled(t *testing.T) {
	t.Parallel()
	for from, start := range starts {
		for to, p := range targets {
			t.Run(from+" to "+to, func(t *testing.T) {
				t.Parallel()
				for _, next := range []Path{p, pathA, pathC} {
					everyFault(t, func() *fake { return startedAt(t, start) },
						func(f *fake) error { return feedAfresh(f, p) },
						func(f *fake) {
							must(t, feedAfresh(f, next))
							f.wantWell(t, table, next)
						})
				}
			})
		}
	}
}

// A swap has as many steps as it takes, and each was broken above.
func TestFeedKilledReachesAll(t *testing.T) {
	t.Parallel()
	n := everyFault(t, func() *fake { return startedAt(t, loadC) }, func(f *fake) error { return feedAfresh(f, pathB) },
		func(*fake) {})
	if n != 6 { // status, table, clear, load, suspend, resume
		t.Errorf("%d calls", n)
	}
}

// Killed twice in a row, at any two steps.
func TestFeedKilledTwice(t *testing.T) {
	t.Parallel()
	everyFault(t, func() *fake { return startedAt(t, starts["held"]) }, func(f *fake) error { return feedAfresh(f, pathB) },
		func(f *fake) {
			for n := 1; n < 8; n++ {
				for _, kind := range faultKinds {
					f.breakAt(n, kind)
					_ = feedAfresh(f, pathC)
					f.mend()
				}
			}
			must(t, feedAfresh(f, pathB))
			f.wantWell(t, table, pathB)
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
					if len(f.devices) != 1 {
						t.Errorf("devices: %v", f.devices)
					}
				})
			if n != 5 { // create, status, load, resume, get
				t.Errorf("%d calls", n)
			}
		})
	}
}

// What a killed swap left can be given up at once: nothing waits any more, and
// nothing is sent to a table that was not put to use before.
func TestGiveUpAfterKill(t *testing.T) {
	t.Parallel()
	for from, start := range starts {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			everyFault(t, func() *fake { return startedAt(t, start) }, func(f *fake) error { return feedAfresh(f, pathB) },
				func(f *fake) {
					inUse := pathA
					if f.look(table).live.path == pathB.dev() {
						inUse = pathB
					}
					g, _ := f.guards()
					must(t, g.GiveUp(table))
					wantGivenUp(t, f, inUse)
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
			giveUp := func(f *fake) error { g, _ := f.guards(); return g.GiveUp(table) }
			everyFault(t, func() *fake { return startedAt(t, start) }, giveUp, func(f *fake) {
				must(t, giveUp(f))
				wantGivenUp(t, f, pathA)
			})
		})
	}
}

// A proof that is refused, before the table is loaded or after, leaves the old
// table in use, and none beside it that somebody's resume could put to use.
func TestProofRefused(t *testing.T) {
	t.Parallel()
	for from, start := range starts {
		for to, p := range targets {
			for refused := 1; refused <= 2; refused++ {
				t.Run(fmt.Sprintf("%s to %s, proof %d", from, to, refused), func(t *testing.T) {
					t.Parallel()
					proofRefused(t, startedAt(t, start), p, refused)
				})
			}
		}
	}
}

var errProof = errors.New("not the right device")

func proofRefused(t *testing.T, f *fake, p Path, refused int) {
	before := f.look(table)
	g, o := f.guards()
	asked := 0
	err := g.Feed(table, p, false, func() error {
		if asked++; asked == refused {
			return errProof
		}
		return o.proof()
	})
	after := f.look(table)
	if asked < refused { // there was nothing to load
		must(t, err)
		f.wantWell(t, table, p)
		return
	}
	if !errors.Is(err, errProof) {
		t.Fatalf("got %v", err)
	}
	must(t, o.balanced())
	if *after.live != *before.live || after.Suspended != before.Suspended {
		t.Errorf("%+v became %+v, suspended %v", before.live, after.live, after.Suspended)
	}
	if refused == 2 && after.fresh != nil {
		t.Errorf("a table that nobody vouches for is left: %+v", after.fresh)
	}
	must(t, g.GiveUp(table))
	wantGivenUp(t, f, pathA)
	must(t, feedAfresh(f, p))
	f.wantWell(t, table, p)
}

// A table that was refused and could not be dropped is reported with both
// errors, and dropped by the next call.
func TestProofRefusedAndClearFails(t *testing.T) {
	t.Parallel()
	f, g, _ := onA(t)
	f.breakAt(4, faultKind{}) // status, table, load, clear
	asked := 0
	err := g.Feed(table, pathB, false, func() error {
		if asked++; asked == 2 {
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
