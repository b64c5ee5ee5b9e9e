package watch

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// again is the watch of the next process, on what the one before has kept.
func (w *world) again() *world {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := newWorld(len(w.volumes))
	n.volumes, n.controllers, n.disks, n.tables, n.withdrawn, n.kept = w.volumes, w.controllers, w.disks, w.tables, w.withdrawn, w.kept
	n.exported, n.network, n.minors = w.exported, w.network, w.minors
	return n
}

func limited(seconds int) *world {
	w := newWorld(1)
	w.volumes[0].Session.Config.CtrlLossTmo = seconds
	return w
}

// The limit counts from when the outage began, however often the plugin was
// restarted since.
func TestLimitOutlivesRestarts(t *testing.T) {
	t.Parallel()
	inBubble(t, 0, func(outer run) {
		w := limited(60)
		w.setState(0, "connecting")
		began := time.Now()
		for n := 1; n <= 5; n++ {
			inWatchOf(outer, w, func(r run) {
				r.pass(11 * time.Second)
				got := r.expect(0, Waiting)
				if d := got.WaitSince.Sub(began); d < 0 || d > 2*Every {
					r.Errorf("process %d: the outage is said to have begun after %v", n, d)
				}
				r.expectCalls("end", 0)
			})
			w = w.again()
		}
		inWatchOf(outer, w, func(r run) {
			r.pass(5*time.Second - 2*Every)
			r.expectCalls("end", 0)
			r.pass(time.Second)
			r.expectCalls("end expired v0", 1)
			r.expect(0, Failing)
		})
	})
}

// inWatchOf runs a watch on w inside of a bubble, and ends it as a kill would.
func inWatchOf(outer run, w *world, test func(r run)) {
	r := run{T: outer.T, world: w}
	w.hints, w.changed = make(chan struct{}, 1), make(chan struct{}, 1)
	r.watch, r.said = w.watch()
	stop := r.start()
	test(r)
	stop()
}

// So does the grace.
func TestGraceOutlivesRestarts(t *testing.T) {
	t.Parallel()
	inBubble(t, 0, func(outer run) {
		w := newWorld(1)
		w.volumes[0].Managed = true
		w.withdrawn["v0"] = true
		w.giveUp(0)
		w.network = false
		inWatchOf(outer, w, func(r run) {
			r.pass(10 * time.Second)
			r.expect(0, Fenced)
		})
		w = w.again()
		inWatchOf(outer, w, func(r run) {
			r.do(func() { r.fail["ask v0"] = errFake }) // nobody has to say it again
			r.pass(time.Second)
			r.expect(0, Fenced)
			r.pass(20 * time.Second)
			r.expectCalls("end", 0)
			r.pass(3 * time.Second)
			r.expectCalls("end withdrawn v0", 1)
		})
	})
}

// A limit that ran out while no plugin was there ends nothing that can be
// brought back.
func TestLimitOverWhileAway(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		back func(w *world)
		ends int
	}{
		"the kernel has reconnected": {back: func(w *world) { w.setState(0, "live") }},
		"the kernel has given up":    {back: func(w *world) { w.giveUp(0) }},
		"still away":                 {back: func(w *world) { w.network = false }, ends: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, 0, func(outer run) {
				w := limited(60)
				w.setState(0, "connecting")
				w.pathFails(tableOf(0))
				w.kept = map[string]Clock{"v0": {WaitSince: time.Now().Add(-time.Hour)}}
				c.back(w)
				inWatchOf(outer, w, func(r run) {
					r.pass(inheritPause - 2*Every)
					r.expectCalls("end", 0)
					r.pass(time.Second)
					r.expectCalls("end", c.ends)
					if c.ends == 0 {
						if got := r.expect(0, Serving); got.Reconnects != 1 || got.Waited < time.Hour {
							r.Errorf("%+v", got)
						}
						r.pass(2 * time.Second)
						if len(r.kept) != 0 {
							r.Errorf("the disk still has %v", r.kept)
						}
					}
				})
			})
		})
	}
}

// What was kept of another publication, or of a volume that was not staged when
// the plugin started, is not taken for this one's.
func TestClocksOfOthers(t *testing.T) {
	t.Parallel()
	inBubble(t, 0, func(outer run) {
		long := time.Now().Add(-time.Hour)
		w := limited(60)
		w.volumes[0].Generation = 7
		w.setState(0, "connecting")
		w.kept = map[string]Clock{"v0": {Generation: 6, WaitSince: long}, "v1": {WaitSince: long, FencedAt: long}}
		inWatchOf(outer, w, func(r run) {
			r.pass(time.Second)
			r.do(func() {
				r.stage(1)
				r.volumes[1].Session.Config.CtrlLossTmo = 60
				r.setState(1, "connecting")
			})
			r.pass(50 * time.Second)
			r.expectCalls("end", 0)
			r.pass(15 * time.Second)
			r.expectCalls("end", 2)
		})
	})
}

// The memory of a publication that has ended is not that of the next one.
func TestMemoryIsOfOnePublication(t *testing.T) {
	t.Parallel()
	w := newWorld(1)
	watch, _ := w.watch()
	old := w.volumes[0]
	watch.volume(old).fencedAt = start
	old.Generation++
	if m := watch.volume(old); !m.fencedAt.IsZero() {
		t.Errorf("generation %d has inherited %+v", old.Generation, *m)
	}
}

// The default class writes nothing, whatever happens to its session; one with a
// limit writes when an outage has begun and when it is over, and not for a blip.
func TestClocksAreWrittenSparingly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit, writes int
		lasts         time.Duration
	}{
		"no limit":      {limit: -1, lasts: time.Minute},
		"a limit":       {limit: 600, lasts: time.Minute, writes: 2},
		"only a moment": {limit: 600, lasts: clockAfter / 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubbleOf(t, limited(c.limit), func(r run) {
				r.pass(time.Second)
				r.do(func() { r.setState(0, "connecting") })
				r.pass(c.lasts)
				r.do(func() { r.setState(0, "live") })
				r.pass(time.Minute)
				r.expect(0, Serving)
				r.expectCalls("keep clocks", c.writes)
				if len(r.kept) > 0 {
					r.Errorf("left on disk: %v", r.kept)
				}
			})
		})
	}
}

// A disk that hangs or is full holds nothing up; the clock in memory counts, and
// the disk gets it when it can.
func TestClocksWithoutDisk(t *testing.T) {
	t.Parallel()
	for name, breakIt := range map[string]func(w *world) (heal func()){
		"full": func(w *world) func() {
			w.fail["keep clocks "] = errFake
			return func() { delete(w.fail, "keep clocks ") }
		},
		"hangs": func(w *world) func() {
			ch := make(chan struct{})
			w.block["keep clocks "] = ch
			return func() { delete(w.block, "keep clocks "); close(ch) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(2)
			for i := range w.volumes {
				w.volumes[i].Session.Config.CtrlLossTmo = 60
			}
			inBubbleOf(t, w, func(r run) {
				var heal func()
				r.do(func() { heal = breakIt(r.world) })
				r.do(func() { r.setState(0, "connecting"); r.setState(1, "connecting") })
				r.pass(30 * time.Second)
				r.do(func() { r.setState(1, "live") })
				r.pass(time.Second)
				r.expect(1, Serving)
				r.pass(30 * time.Second)
				r.expectCalls("end expired v0", 1)
				if n := r.count("keep clocks"); n > 20 {
					r.Errorf("%d attempts", n)
				}
				warned := 0
				for _, line := range r.said.lines() {
					if strings.Contains(line, "limits begin anew") {
						warned++
					}
				}
				if warned > 1 {
					r.Errorf("said %d times", warned)
				}
				r.do(func() { r.setState(1, "connecting") })
				r.pass(10 * time.Second)
				r.do(heal)
				r.pass(2 * clockAgain)
				if diff := cmp.Diff(1, len(r.kept)); diff != "" {
					r.Errorf("on disk: %v", r.kept)
				}
			})
		})
	}
}
