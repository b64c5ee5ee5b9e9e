package watch

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// An outage that the kernel itself ends: one hold while the device is away, and
// one feed when it is back.
func TestOutageAndReturn(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		r.expect(0, Serving)
		r.pass(time.Minute)
		r.do(func() { r.setState(0, "connecting") })
		lost := time.Now()
		r.pass(3 * time.Second)
		if got := r.expect(0, Waiting); got.WaitSince.Sub(lost) > calmEvery {
			r.Errorf("noticed after %v", got.WaitSince.Sub(lost))
		}
		r.expectCalls("feed", 0)
		r.do(func() { r.setState(0, "live") })
		r.hint()
		synctest.Wait()
		if got := r.expect(0, Serving); got.Reconnects != 1 || !got.WaitSince.IsZero() || !got.Since.Equal(time.Now()) {
			r.Errorf("after the outage: %+v", got)
		}
		r.expectCalls("hold holdfast-v0", 1)
		r.expectCalls("feed holdfast-v0", 1)
		r.expectCalls("restore", 0)
		r.expectCalls("rescan", 0)
	})
}

// No uevent has to come for it: they can be lost.
func TestReturnWithoutHint(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		for i := range 3 {
			r.do(func() { r.setState(0, "connecting") })
			r.pass(time.Second)
			r.expect(0, Waiting)
			r.do(func() { r.setState(0, "live") })
			r.pass(2 * Every)
			if got := r.expect(0, Serving); got.Reconnects != i+1 {
				r.Errorf("%d reconnects after %d outages", got.Reconnects, i+1)
			}
		}
	})
}

// An outage that the kernel gave up: connected again until it works, and the
// new device is put below the table.
func TestGivenUpByKernel(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		old := r.disks[nqnOf(0)].Minor
		r.do(func() { r.network = false; r.giveUp(0) })
		r.pass(10 * time.Second)
		got := r.expect(0, Waiting)
		// 0 and 250 ms after it was noticed, and then every half second.
		if n := r.count("restore nqn.v0"); n < 18 || n > 23 || got.Attempts != n {
			r.Errorf("%d attempts to connect in 10 s, %d reported", n, got.Attempts)
		}
		r.do(func() { r.network = true })
		r.pass(connectMost + Every)
		if got := r.expect(0, Serving); got.Attempts != 0 || got.Reconnects != 1 {
			r.Errorf("after the outage: %+v", got)
		}
		if now := r.disks[nqnOf(0)].Minor; now == old || r.tables[tableOf(0)].Path != fmt.Sprintf("259:%d", now) {
			r.Errorf("the table is on %s, the device was %d and is %d", r.tables[tableOf(0)].Path, old, now)
		}
		r.expectCalls("feed", 1)
		r.expectCalls("hold", 1)
	})
}

// A namespace that does not come back by itself is asked for.
func TestNamespaceMissing(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		r.do(func() {
			r.giveUp(0)
			r.hidden[nqnOf(0)] = true
			r.fail["rescan nqn.v0"] = errFake
		})
		r.pass(10 * time.Second)
		r.expect(0, Waiting)
		if n := r.count("rescan"); n < 5 || n > 8 {
			r.Errorf("%d rescans in 10 s", n)
		}
		r.do(func() { delete(r.fail, "rescan nqn.v0") })
		r.pass(rescanMost + Every)
		r.expect(0, Serving)
	})
}

// What is not the volume is not used, whatever else happens, until it is.
func TestRefused(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		r.do(func() {
			r.giveUp(0)
			d := r.exported[nqnOf(0)]
			d.UUID = otherUUID
			r.exported[nqnOf(0)] = d
		})
		r.pass(time.Minute)
		if got := r.expect(0, Refused); !strings.Contains(got.Why, otherUUID.String()) {
			r.Errorf("refused because of %q", got.Why)
		}
		r.expectCalls("feed", 0)
		r.expectCalls("hold", 1)
		r.do(func() {
			d := r.exported[nqnOf(0)]
			d.UUID = uuidOf(0)
			r.exported[nqnOf(0)] = d
			r.scan(nqnOf(0))
		})
		r.pass(2 * Every)
		if got := r.expect(0, Serving); got.Why != "" {
			r.Errorf("serving, but %q", got.Why)
		}
	})
}

// The kernel gives the name of a disk that is gone to the next one: what was known
// of the one says nothing of the other.
func TestNameOfADiskPasses(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		own, other := r.exported[nqnOf(0)], r.exported[nqnOf(0)]
		other.NSID, other.UUID = 2, otherUUID
		become := func(d nvmesysfs.Namespace) {
			r.do(func() {
				delete(r.disks, nqnOf(0))
				r.exported[nqnOf(0)] = d
				r.scan(nqnOf(0))
			})
		}
		r.do(func() { r.giveUp(0); r.exported[nqnOf(0)] = other })
		r.pass(10 * time.Second)
		r.expect(0, Waiting)
		become(own)
		r.pass(rescanMost + Every)
		r.expect(0, Serving)
	})
}

// TestOutageOfOne: what the outage of one session costs does not depend on how many
// other volumes there are.
func TestOutageOfOne(t *testing.T) {
	t.Parallel()
	costs := map[int]map[string]int{}
	for _, n := range []int{1, 100} {
		inBubble(t, n, func(r run) {
			r.do(func() { r.steady = true })
			r.pass(time.Second)
			kinds := []string{"state", "session", "hold", "feed", "restore", "rescan", "write"}
			before := map[string]int{}
			for _, k := range kinds {
				before[k] = r.count(k)
			}
			r.do(func() { r.network = false; r.giveUp(0) })
			r.pass(20 * time.Second)
			r.do(func() { r.network = true })
			r.pass(20 * time.Second)
			r.expect(0, Serving)
			costs[n] = map[string]int{}
			for _, k := range kinds {
				costs[n][k] = r.count(k) - before[k]
			}
		})
	}
	for what, alone := range costs[1] {
		// Looks go with the moments at which acts end.
		if d := costs[100][what] - alone; d < -5 || d > 5 {
			t.Errorf("%s: %d alone, %d among a hundred", what, alone, costs[100][what])
		}
	}
	if costs[1]["restore"] == 0 || costs[1]["feed"] != 1 {
		t.Errorf("alone %v", costs[1])
	}
}

// TestCheapLook: volumes that are well cost nothing but the list of controllers
// and that of tables, until the audit or until something is said to have changed.
func TestCheapLook(t *testing.T) {
	t.Parallel()
	const n = 20
	inBubble(t, n, func(r run) {
		check := func(when string, states, sessions int) {
			t.Helper()
			if gotStates, gotSessions := r.count("state"), r.count("session"); gotStates != states || gotSessions != sessions {
				t.Errorf("%s: %d looks at tables and %d at sessions, want %d and %d", when, gotStates, gotSessions, states, sessions)
			}
		}
		check("at first", n, n)
		r.pass(audit - Every)
		check("before the audit", n, n)
		if polls := r.count("controllers"); polls < int(audit/calmEvery)-1 {
			t.Errorf("only %d polls", polls)
		}
		r.pass(2 * Every)
		check("after the audit", 2*n, 2*n)
		r.hint()
		synctest.Wait()
		check("after a hint", 2*n, 3*n) // the event numbers show that no table has changed
		r.do(func() { r.about = map[string]bool{"nvme3": true, "nvme-subsys99": true} })
		r.hint()
		synctest.Wait()
		check("after a hint about one", 2*n, 3*n+1)
		r.do(func() { r.about = map[string]bool{"nvme99": true} })
		r.hint()
		synctest.Wait()
		check("after a hint about another's", 2*n, 3*n+1)
		r.changed <- struct{}{}
		synctest.Wait()
		check("after a change of what is staged", 2*n, 4*n+1)
		r.do(func() { r.tables[tableOf(7)].events++ })
		r.pass(2 * Every)
		check("after an event of one table", 2*n+1, 4*n+1)
		r.pass(10 * time.Second)
		check("and again nothing", 2*n+1, 4*n+1)
		r.resized <- struct{}{}
		synctest.Wait()
		check("after a disk has another size", 3*n+1, 5*n+1)
		r.expectCalls("write", 0)
	})
}

// An outage of one session costs no looks at the others.
func TestOutageCostsOthersNothing(t *testing.T) {
	t.Parallel()
	inBubble(t, 5, func(r run) {
		// The connects that fail make nothing stale: nothing came of them.
		r.do(func() { r.fail["restore nqn.v0"] = errFake; r.fail["hold holdfast-v0"] = errFake; r.giveUp(0) })
		r.pass(20 * time.Second)
		r.expect(0, Waiting)
		for i := 1; i < 5; i++ {
			r.expect(i, Serving)
		}
		// Each hold that was tried makes one full look, which is a few a second.
		if n := r.count("session nqn.v1"); n > 100 {
			r.Errorf("%d looks at a session that is well", n)
		}
	})
}

// An act that hangs holds up its own volume only.
func TestHangingAct(t *testing.T) {
	t.Parallel()
	inBubble(t, 3, func(r run) {
		release := make(chan struct{})
		r.do(func() {
			r.block["feed holdfast-v0"], r.block["restore nqn.v2"] = release, release
			r.pathFails(tableOf(0))
			r.giveUp(2)
		})
		r.pass(time.Second)
		r.expect(0, Waiting)
		r.do(func() { r.setState(1, "connecting") })
		r.pass(5 * time.Second)
		r.expect(1, Waiting)
		r.do(func() { r.setState(1, "live") })
		r.pass(2 * Every)
		r.expect(1, Serving)
		r.pass(20 * time.Second)
		r.expectCalls("feed holdfast-v0", 1)
		r.expectCalls("restore nqn.v2", 1)
		if got := r.expect(2, Waiting); got.Attempts != 1 {
			r.Errorf("one attempt to connect goes on, %d are reported", got.Attempts)
		}
		r.do(func() { clear(r.block) })
		close(release)
		r.pass(2 * Every)
		for i := range 3 {
			r.expect(i, Serving)
		}
	})
}

// An act that fails at once is paced like one that takes its time: the loop
// looks again when an act has ended, and must not spin.
func TestFailingActIsPaced(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		act  string
		fail error
		loss int
		most int
	}{
		"hold fails":      {"hold holdfast-v0", errFake, -1, 50},
		"hold in vain":    {"hold holdfast-v0", errInVain, -1, 50}, // another call is at the table
		"end fails":       {"end expired v0", errFake, 1, 50},
		"end in vain":     {"end expired v0", errInVain, 1, 50},
		"restore fails":   {"restore nqn.v0", errFake, -1, 25},
		"restore in vain": {"restore nqn.v0", errInVain, -1, 50},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(1)
			w.volumes[0].Session.Config.CtrlLossTmo = c.loss
			inBubbleOf(t, w, func(r run) {
				r.do(func() { r.fail[c.act] = c.fail; r.network = false; r.giveUp(0) })
				r.pass(10 * time.Second)
				if n := r.count(c.act); n < 5 || n > c.most {
					t.Errorf("tried %d times in 10 s, want at most %d", n, c.most)
				}
			})
		})
	}
}

// managed is a world of n volumes whose storage host can be asked about them.
func managed(n int) *world {
	w := newWorld(n)
	for i := range w.volumes {
		w.volumes[i].Managed = true
	}
	return w
}

// The storage host's word ends the waiting, once, when the grace is over.
func TestWithdrawnEnds(t *testing.T) {
	t.Parallel()
	inBubbleOf(t, managed(2), func(r run) {
		r.pass(time.Minute)
		r.expectCalls("ask", 0)
		r.do(func() { r.withdrawn["v0"] = true; r.setState(0, "connecting"); r.setState(1, "connecting") })
		r.pass(askAfter)
		r.expectCalls("ask", 0)
		r.pass(2 * Every)
		r.expect(0, Fenced)
		r.pass(DefaultGrace - 2*Every)
		r.expectCalls("end", 0)
		r.expect(0, Fenced)
		r.pass(2 * Every)
		r.expectCalls("end withdrawn v0", 1)
		r.expect(0, Failing)
		asked := r.count("ask v0")
		r.pass(5 * time.Minute)
		r.expectCalls("end", 1)
		r.expectCalls("ask v0", asked)
		r.expect(1, Waiting)
		if n := r.count("ask v1"); n < 50 || n > 75 {
			r.Errorf("asked %d times in 5.5 min", n)
		}
	})
}

// What was ended before the plugin started may want its last step. That is tried
// until it succeeds, while nothing else happens, and then no more.
func TestEndedBeforeStart(t *testing.T) {
	t.Parallel()
	w := managed(1)
	w.volumes[0].Ended = true
	w.tables["holdfast-v0"].Active, w.tables["holdfast-v0"].Queues = false, false
	w.fail["end again v0"] = errFake
	inBubbleOf(t, w, func(r run) {
		r.do(func() { r.setState(0, "connecting") })
		r.pass(10 * time.Second)
		if n := r.count("end again v0"); n < 5 || n > 11 {
			t.Errorf("tried %d times in 10 s", n)
		}
		r.do(func() { delete(r.fail, "end again v0") })
		r.pass(2 * endPause)
		tried := r.count("end again v0")
		r.pass(5 * time.Minute)
		r.expectCalls("end", tried)
		r.expect(0, Failing)
	})
}

// Silence of the storage host, however long, is never a withdrawal.
func TestSilenceIsNoWithdrawal(t *testing.T) {
	t.Parallel()
	inBubbleOf(t, managed(1), func(r run) {
		r.do(func() { r.withdrawn["v0"] = true; r.fail["ask v0"] = errFake; r.setState(0, "connecting") })
		r.pass(10 * time.Minute)
		r.expect(0, Waiting)
		r.expectCalls("end", 0)
		if n := r.count("ask"); n < 100 || n > 125 {
			r.Errorf("asked %d times in 10 min", n)
		}
		r.do(func() { r.setState(0, "live") })
		r.pass(2 * Every)
		r.expect(0, Serving)
	})
}

// Silence after the word does not take it back; a later word does.
func TestWithdrawalTakenBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		then  func(w *world)
		state State
		ends  int
	}{
		"it says so again":      {func(*world) {}, Failing, 1},
		"it says nothing more":  {func(w *world) { w.fail["ask v0"] = errFake }, Failing, 1},
		"it says it is ours":    {func(w *world) { w.withdrawn["v0"] = false }, Waiting, 0},
		"the device comes back": {func(w *world) { w.setState(0, "live") }, Serving, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubbleOf(t, managed(1), func(r run) {
				r.do(func() { r.withdrawn["v0"] = true; r.setState(0, "connecting") })
				r.pass(10 * time.Second)
				r.expect(0, Fenced)
				r.do(func() { c.then(r.world) })
				r.pass(2 * DefaultGrace)
				r.expect(0, c.state)
				r.expectCalls("end", c.ends)
			})
		})
	}
}

// One storage host that does not answer is not asked about its other volumes,
// and what it said before it fell silent counts.
func TestAskStopsAtSilence(t *testing.T) {
	t.Parallel()
	w := managed(3)
	for i := range w.volumes {
		w.volumes[i].Session = w.volumes[0].Session
	}
	inBubbleOf(t, w, func(r run) {
		r.do(func() {
			r.withdrawn["v0"], r.withdrawn["v2"] = true, true
			r.fail["ask v1"] = errFake
			r.setState(0, "connecting")
		})
		r.pass(10 * time.Second)
		r.expect(0, Fenced)
		r.expect(1, Waiting)
		r.expect(2, Waiting)
		r.expectCalls("ask v2", 0)
	})
}

// The clock of ctrlLossTmo ends the waiting once, at its time.
func TestExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(1)
	w.volumes[0].Session.Config.CtrlLossTmo = 60
	w.controllers[0].CtrlLossTmo = 60
	inBubbleOf(t, w, func(r run) {
		r.do(func() { r.network = false; r.giveUp(0) })
		r.pass(time.Minute)
		r.expectCalls("end", 0)
		r.expect(0, Waiting)
		r.pass(2 * Every)
		r.expectCalls("end expired v0", 1)
		r.expect(0, Failing)
		restores := r.count("restore")
		r.pass(time.Minute)
		r.expectCalls("end", 1)
		r.expectCalls("restore", restores)
	})
}

// Tables that no volume has are removed after a while, unless something has them
// open.
func TestStrays(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		r.do(func() {
			r.tables["holdfast-unused"] = &fakeTable{}
			r.tables["holdfast-open"] = &fakeTable{State: guard.State{OpenCount: 1}}
			r.tables["holdfast-soon"] = &fakeTable{}
			r.tables["holdfast-odd"] = &fakeTable{}
			r.fail["state holdfast-odd"] = errFake
		})
		r.pass(strayTime - Every)
		r.expectCalls("remove", 0)
		// One of them is a volume's after all: it was being staged.
		r.do(func() {
			v := r.volumes[0]
			v.ID, v.Table, v.Unsettled = "soon", "holdfast-soon", true
			r.volumes = append(r.volumes, v)
		})
		r.pass(5 * time.Minute)
		r.expectCalls("remove holdfast-unused", 1)
		r.expectCalls("remove", 1)
		if n := r.count("state holdfast-open"); n > 32 {
			r.Errorf("%d looks at a stray that is in use", n)
		}
		r.do(func() { r.tables["holdfast-open"].OpenCount = 0; delete(r.fail, "state holdfast-odd") })
		r.pass(strayTime + Every)
		r.expectCalls("remove holdfast-open", 1)
		r.expectCalls("remove holdfast-odd", 1)
		r.expectCalls("remove", 3)
	})
}

// A table becomes a stray when its volume is unstaged, and never before: not in
// any state that a volume may be in.
func TestVolumesTablesStay(t *testing.T) {
	t.Parallel()
	w := newWorld(4)
	for _, table := range w.tables {
		table.OpenCount = 0
	}
	w.volumes[1].Unsettled, w.volumes[2].Ended = true, true
	inBubbleOf(t, w, func(r run) {
		r.do(func() { r.network = false; r.giveUp(3) })
		r.pass(5 * time.Minute)
		r.expectCalls("remove", 0)
		r.do(func() { r.volumes = nil })
		r.pass(strayTime + 2*Every)
		r.expectCalls("remove", 4)
		if _, known := r.watch.Report("v0"); known {
			r.Error("a volume that is not staged is reported")
		}
		polls := r.count("controllers")
		r.pass(20 * time.Second)
		if more := r.count("controllers") - polls; more > 1 { // an audit may fall into it
			r.Errorf("%d looks, and there is nothing to be looked at", more)
		}
	})
}

// With nothing staged, what a former life left behind is found.
func TestStraysOfAFormerLife(t *testing.T) {
	t.Parallel()
	w := newWorld(0)
	w.tables["holdfast-old"] = &fakeTable{}
	inBubbleOf(t, w, func(r run) {
		r.pass(strayTime + 2*Every)
		r.expectCalls("remove holdfast-old", 1)
	})
}

// A table that waits for a path and that no record knows is said once, and one
// that was given up is not.
func TestOrphansAreSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(0)
	w.tables["holdfast-lost"] = &fakeTable{State: guard.State{OpenCount: 1, Queues: true}}
	w.tables["holdfast-ended"] = &fakeTable{State: guard.State{OpenCount: 1}}
	inBubbleOf(t, w, func(r run) {
		r.pass(5 * time.Minute)
		r.expectCalls("remove", 0)
		lines := r.said.lines()
		if len(lines) != 1 || !strings.Contains(lines[0], "level=ERROR") || !strings.Contains(lines[0], "holdfast-lost") {
			r.Errorf("said %q", lines)
		}
	})
}

// Every change is said once, and nothing else is said, however often is looked.
func TestSaidOnce(t *testing.T) {
	t.Parallel()
	w := managed(2)
	inBubbleOf(t, w, func(r run) {
		r.pass(time.Minute)
		r.do(func() { r.setState(0, "connecting") })
		r.pass(10 * time.Second)
		r.do(func() { r.setState(0, "live") })
		r.pass(time.Minute)
		r.do(func() { d := r.disks[nqnOf(1)]; d.UUID = otherUUID; r.disks[nqnOf(1)] = d })
		r.hint()
		r.pass(time.Minute)
		r.do(func() { r.withdrawn["v1"] = true })
		r.pass(2 * DefaultGrace)
		r.do(func() { delete(r.tables, tableOf(0)) })
		r.pass(time.Minute)
		want := []string{
			`level=WARN msg="session is lost, I/O waits" nqn=nqn.v0`,
			`level=INFO msg="session is back" nqn=nqn.v0`,
			`level=INFO msg="volume is back, I/O goes on" volume=v0`,
			`level=ERROR msg="where the volume should be is something else: it is not used, and I/O waits" volume=v1`,
			`level=WARN msg="the volume was given away: its I/O will fail after the grace" volume=v1`,
			`level=ERROR msg="volume is lost until it is staged again" volume=v0`,
		}
		if diff := cmp.Diff(want, shortened(r.said.lines(), want)); diff != "" {
			r.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// shortened are lines without what comes after the beginnings that are wanted.
func shortened(lines, want []string) []string {
	out := make([]string, len(lines))
	for i, line := range lines {
		out[i] = line
		if i < len(want) && strings.HasPrefix(line, want[i]) {
			out[i] = want[i]
		}
	}
	return out
}

// A volume that the kernel gave up is connected again: that is said too.
func TestConnectIsSaid(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		r.do(func() { r.network = false; r.giveUp(0) })
		r.pass(time.Minute)
		r.do(func() { r.network = true })
		r.pass(time.Minute)
		want := []string{
			`level=WARN msg="session is lost, I/O waits" nqn=nqn.v0`,
			`level=INFO msg="a session was connected again" nqn=nqn.v0`,
			`level=INFO msg="session is back" nqn=nqn.v0`,
			`level=INFO msg="volume is back, I/O goes on" volume=v0`,
		}
		if diff := cmp.Diff(want, shortened(r.said.lines(), want)); diff != "" {
			r.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// A volume that is being staged has no outage that could end.
func TestStagingIsNoOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(1)
	made := w.tables[tableOf(0)]
	delete(w.tables, tableOf(0))
	w.volumes[0].Unsettled = true
	inBubbleOf(t, w, func(r run) {
		r.expect(0, Waiting)
		r.pass(time.Second)
		r.do(func() { r.tables[tableOf(0)] = made })
		r.pass(time.Second)
		r.expect(0, Serving)
		r.do(func() { r.volumes[0].Unsettled = false })
		r.changed <- struct{}{}
		r.pass(time.Second)
		if got := r.expect(0, Serving); got.Reconnects != 0 {
			r.Errorf("after it was staged: %+v", got)
		}
		if lines := r.said.lines(); len(lines) > 0 {
			r.Errorf("said %q", lines)
		}
	})
}

// What cannot be seen of one volume is no reason not to look after the others.
func TestLookFailsForOne(t *testing.T) {
	t.Parallel()
	for _, look := range []string{"session nqn.v0", "state holdfast-v0"} {
		t.Run(look, func(t *testing.T) {
			t.Parallel()
			inBubble(t, 3, func(r run) {
				r.do(func() {
					r.fail[look] = errFake
					r.setState(0, "resetting")
					r.setState(2, "connecting")
				})
				r.pass(time.Second)
				r.expect(2, Waiting)
				r.do(func() { r.setState(0, "live"); r.setState(2, "live") })
				r.pass(time.Minute)
				r.expect(1, Serving)
				r.expect(2, Serving)
				r.expectCalls("feed holdfast-v0", 0) // nobody knows what it is like
				if n := strings.Count(strings.Join(r.said.lines(), "\n"), "level=ERROR"); n != 1 {
					r.Errorf("that nothing can be seen is said %d times:\n%s", n, strings.Join(r.said.lines(), "\n"))
				}
				r.do(func() { clear(r.fail) })
				r.pass(time.Second)
				r.expect(0, Serving)
			})
		})
	}
}

// A hint must not be lost because the look that it led to failed.
func TestHintOutlivesAFailedLook(t *testing.T) {
	t.Parallel()
	for _, look := range []string{"controllers ", "list ", "session nqn.v0", "state holdfast-v0"} {
		t.Run(look, func(t *testing.T) {
			t.Parallel()
			inBubble(t, 2, func(r run) {
				r.do(func() {
					r.fail[look] = errFake
					for i := range 2 {
						r.hidden[nqnOf(i)] = true
						delete(r.disks, nqnOf(i))
					}
				})
				r.hint()
				synctest.Wait()
				r.do(func() { clear(r.fail) })
				r.pass(2 * Every)
				for i := range 2 {
					r.expectCalls("rescan "+nqnOf(i), 1)
				}
			})
		})
	}
}

// So must that a table was not seen: what is known of it is old.
func TestTableUnseenIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		r.do(func() {
			r.fail["state holdfast-v0"] = errFake
			r.tables[tableOf(0)].Suspended = true
			r.tables[tableOf(0)].events++
		})
		r.hint()
		synctest.Wait()
		r.expect(0, Serving)
		r.do(func() { clear(r.fail) })
		r.pass(2 * Every)
		r.expectCalls("feed", 1)
		r.expect(0, Serving)
	})
}

// A table that is not well is looked at each time, because not all that may
// happen to it is an event.
func TestTableNotWellIsLookedAt(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		r.do(func() {
			r.setState(0, "connecting")
			r.tables[tableOf(0)].Suspended = true
			r.tables[tableOf(0)].events++
		})
		r.pass(2 * Every)
		r.expect(0, Waiting)
		r.do(func() { r.setState(0, "live"); r.tables[tableOf(0)].Suspended = false })
		r.pass(2 * Every)
		r.expect(0, Serving)
		r.expectCalls("feed", 0)
	})
}

// A volume that serves while something is left to do about its table is fed again,
// ever more slowly, though nothing happens; once nothing is, nothing is looked at.
func TestUntidyIsFedAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, func(r run) {
		r.do(func() {
			r.steady = true
			r.fail["feed holdfast-v0"] = errInVain
			r.tables[tableOf(0)].Untidy = true
			r.tables[tableOf(0)].events++
		})
		r.pass(time.Minute)
		r.expect(0, Serving)
		if n := r.count("feed holdfast-v0"); n < 10 || n > 20 {
			r.Errorf("fed %d times in a minute", n)
		}
		r.do(func() { delete(r.fail, "feed holdfast-v0") })
		r.pass(6 * time.Second)
		states, sessions := r.count("state"), r.count("session")
		r.pass(20 * time.Second)
		if r.count("state") != states || r.count("session") != sessions {
			r.Errorf("%d looks at tables and %d at sessions, though all is well", r.count("state")-states, r.count("session")-sessions)
		}
		r.expectCalls("feed holdfast-v1", 0)
		r.expectCalls("hold", 0)
	})
}

// I/O that failed while the session is live: the device is tried again, ever
// more slowly as long as it fails.
func TestPathFailsWhileLive(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, func(r run) {
		r.pass(time.Second)
		r.do(func() { r.pathFails(tableOf(0)) })
		r.pass(2 * Every)
		if got := r.expect(0, Serving); got.Reconnects != 1 {
			r.Errorf("%+v", got)
		}
		r.expectCalls("feed holdfast-v0", 1)
		for range 60 {
			r.do(func() {
				if r.tables[tableOf(0)].Active {
					r.pathFails(tableOf(0))
				}
			})
			r.pass(time.Second)
		}
		if n := r.count("feed holdfast-v0"); n < 15 || n > 25 {
			r.Errorf("fed %d times in a minute", n)
		}
		r.expectCalls("feed holdfast-v1", 0)
	})
}

// The kernel alone keeps the volume, and the controller with its path goes away
// while another stays: no event of a table tells of it.
func TestPathLostWithoutTable(t *testing.T) {
	t.Parallel()
	w := newWorld(1)
	w.volumes[0].Table = ""
	clear(w.tables)
	w.volumes[0].Session.Portals = []netip.AddrPort{portal(1), portal(2)}
	w.connect(w.volumes[0].Session)
	d := w.disks[nqnOf(0)]
	d.Controllers = d.Controllers[:1]
	w.disks[nqnOf(0)] = d
	w.fail["rescan nqn.v0"] = errInVain // it would find the other path
	inBubbleOf(t, w, func(r run) {
		r.expect(0, Serving)
		r.do(func() { r.controllers[0].State = "connecting" })
		r.pass(2 * Every)
		r.expect(0, Waiting)
		r.do(func() { r.controllers[0].State = "live" })
		r.pass(2 * Every)
		r.expect(0, Serving)
	})
}

// The settings of an adopted session are written until the kernel has them.
func TestSettingsAreWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(1)
	w.controllers[0].ReconnectDelay, w.controllers[0].CtrlLossTmo = 10, 600
	name := w.controllers[0].Name
	w.fail["write "+name+" reconnect_delay 1"] = errFake
	inBubbleOf(t, w, func(r run) {
		r.pass(time.Second)
		r.do(func() { clear(r.fail) })
		r.pass(2 * Every)
		writes := r.count("write")
		r.pass(time.Minute)
		r.expectCalls("write", writes)
		if c := r.controllers[0]; c.ReconnectDelay != eagerDelay || c.CtrlLossTmo != -1 {
			r.Errorf("%+v", c)
		}
	})
}

// Of two portals the one that is away is connected again while the other serves.
func TestSparePortal(t *testing.T) {
	t.Parallel()
	w := newWorld(1)
	w.steady = true
	w.volumes[0].Session.Portals = []netip.AddrPort{portal(1), portal(2)}
	inBubbleOf(t, w, func(r run) {
		r.pass(Every)
		r.expectCalls("restore", 1)
		r.do(func() { r.network = false; r.controllers = r.controllers[:1] })
		r.pass(time.Minute)
		r.expect(0, Serving)
		if n := r.count("restore"); n < 13 || n > 18 {
			r.Errorf("%d attempts to connect the other portal in a minute", n)
		}
		r.do(func() { r.network = true })
		r.pass(connectSpare + Every)
		if len(r.controllers) != 2 {
			r.Errorf("%d controllers", len(r.controllers))
		}
		r.expectCalls("feed", 0)
		r.expectCalls("hold", 0)
	})
}

// Report tells each volume's own story.
func TestReport(t *testing.T) {
	t.Parallel()
	inBubble(t, 3, func(r run) {
		begin := time.Now()
		r.pass(10*time.Second - Every/2) // between two looks
		r.do(func() { r.network = false; r.giveUp(0); r.setState(2, "connecting") })
		r.pass(Every)
		noticed := begin.Add(10 * time.Second)
		r.do(func() { r.setState(2, "live") })
		r.pass(Every)
		got := map[string]Report{}
		for i := range 3 {
			got[idOf(i)], _ = r.watch.Report(idOf(i))
		}
		want := map[string]Report{
			"v0": {State: Waiting, Since: noticed, WaitSince: noticed, Attempts: 2},
			"v1": {State: Serving, Since: begin},
			"v2": {State: Serving, Since: noticed.Add(Every), Reconnects: 1, Waited: Every, Swaps: 1},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			r.Errorf("(-want +got):\n%s", diff)
		}
		if got, known := r.watch.Report("nobody"); known {
			r.Errorf("of what nobody staged: %+v", got)
		}
	})
}

// Links tells of sessions.
func TestLinks(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, func(r run) {
		r.pass(time.Second)
		r.do(func() { r.giveUp(0) })
		r.pass(time.Second)
		lost := time.Now()
		r.do(func() { r.setState(1, "connecting") })
		r.pass(time.Second)
		got := r.watch.Links()
		if since := got[1].LostSince; since.Before(lost) || since.After(lost.Add(Every)) {
			r.Errorf("lost since %v, was at %v", since, lost)
		}
		got[1].LostSince = time.Time{}
		want := []Link{
			{NQN: "nqn.v0", Live: true, Controllers: 1, Outages: 1, Connects: 1},
			{NQN: "nqn.v1", Controllers: 1, Outages: 1},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			r.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// Without guards the kernel alone keeps the volumes, and the watch reports.
func TestNoGuards(t *testing.T) {
	t.Parallel()
	w := newWorld(1)
	w.volumes[0].Table = ""
	clear(w.tables)
	watch, _ := w.watch()
	watch.Guards = nil
	now := start
	look := func() State {
		now = now.Add(Every)
		watch.once(t.Context(), now)
		got, _ := watch.Report("v0")
		return got.State
	}
	states := []State{look()}
	w.do(func() { w.setState(0, "connecting") })
	states = append(states, look())
	w.do(func() { w.setState(0, "live") })
	states = append(states, look())
	if diff := cmp.Diff([]State{Serving, Waiting, Serving}, states); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Run ends with its context although an act hangs, and changes nothing then.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1)
		release := make(chan struct{})
		w.block["feed holdfast-v0"] = release
		w.pathFails(tableOf(0))
		watch, _ := w.watch()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			watch.Run(ctx)
			close(done)
		}()
		synctest.Wait()
		cancel()
		<-done
		close(release)
	})
}

// Acts: one under a key at a time, and what came of it is told in the loop.
func TestActs(t *testing.T) {
	t.Parallel()
	a := newActs()
	release, told := make(chan struct{}), []string{}
	begin := func(key string, wait <-chan struct{}) {
		a.start(t.Context(), key, func() error { <-wait; return fmt.Errorf("%s: %w", key, volume.ErrBusy) },
			func(err error) { told = append(told, err.Error()) })
	}
	open := make(chan struct{})
	close(open)
	begin("a", release)
	begin("a", open) // not begun: one is running
	begin("b", open)
	(<-a.done)()
	close(release)
	(<-a.done)()
	begin("a", open)
	(<-a.done)()
	busy := ": " + volume.ErrBusy.Error()
	if diff := cmp.Diff([]string{"b" + busy, "a" + busy, "a" + busy}, told); diff != "" || len(a.running) > 0 {
		t.Errorf("%v are running; (-want +got):\n%s", a.running, diff)
	}
}

// tellOfAnother has a second connection come, which is told of at once, and returns how
// often something was by then: what follows is within the pause after it.
func (r run) tellOfAnother() (told int) {
	r.Helper()
	r.pass(audit / 2)
	told = r.count("own") + 1
	r.do(func() { r.stage(1) })
	r.changed <- struct{}{}
	synctest.Wait()
	r.expectCalls("own", told)
	return told
}

// The last one that goes is told of, too, although nothing is looked at any more then.
func TestOwnersAreToldOfTheLast(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		told := r.tellOfAnother()
		r.do(func() { r.controllers, r.volumes = nil, nil; clear(r.tables) })
		r.changed <- struct{}{}
		r.pass(3 * time.Second)
		if n := r.count("own") - told; n != 1 {
			t.Errorf("told %d times", n)
		}
		r.pass(time.Minute)
		if n := r.count("own") - told; n != 1 {
			t.Errorf("told %d times in a minute", n)
		}
	})
}

// One that comes and goes between two words is told of: it was claimed.
func TestOwnersAreToldOfAGuest(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		told := r.tellOfAnother()
		before := slices.Clone(r.controllers)
		r.do(func() { r.controllers = append(r.controllers, nvmesysfs.Controller{Name: "nvme99", State: "live"}) })
		r.pass(2 * Every)
		r.do(func() { r.controllers = before })
		r.pass(2 * time.Second)
		r.expectCalls("own", told+1)
	})
}

// Whose the controllers are is said at the start, when others are there, and now
// and then; not while nothing changes.
func TestOwnersAreTold(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, func(r run) {
		r.pass(audit / 2)
		r.expectCalls("own", 1)
		r.do(func() { r.setState(0, "connecting") })
		r.pass(time.Second)
		r.expectCalls("own", 1)
		r.do(func() { r.giveUp(0) })
		r.pass(2 * time.Second)
		r.expectCalls("own", 3) // gone, and, a second later, made again
		r.pass(10 * audit)
		if n := r.count("own"); n < 12 || n > 14 {
			r.Errorf("%d times in ten audits", n)
		}
	})
}
