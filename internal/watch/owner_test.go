package watch

import (
	"strings"
	"testing"
	"time"
)

// clustered is a world with a cluster, to which volume 0 is this node's.
func clustered() *world {
	w := newWorld(1)
	w.owner = map[string]Owner{idOf(0): Ours}
	return w
}

// lose cuts volume 0's target off.
func (r run) lose() {
	r.do(func() { r.network = false; r.setState(0, "connecting"); r.pathFails(tableOf(0)) })
}

// cut cuts the volume's target off for so long.
func (r run) cut(d time.Duration) {
	r.lose()
	r.pass(d)
	r.do(func() { r.network = true; r.setState(0, "live") })
}

// An outage in which nothing can have been given away is over as soon as the volume
// is there.
func TestShortOutageAsksNobody(t *testing.T) {
	t.Parallel()
	inBubbleOf(t, clustered(), func(r run) {
		r.cut(Movable - time.Second)
		r.pass(time.Second)
		r.expect(0, Serving)
		r.expectCalls("owner", 0)
		r.expectCalls("drop", 0)
	})
}

// A longer one: what the kernel would send by itself is called back, and I/O goes on
// once the cluster has said that the volume is ours.
func TestLongOutageAsks(t *testing.T) {
	t.Parallel()
	inBubbleOf(t, clustered(), func(r run) {
		r.cut(10 * time.Minute)
		r.pass(2 * time.Second)
		r.expect(0, Serving)
		r.expectCalls("owner", 1)
		r.expectCalls("drop", 1)
	})
}

// The same without a cluster, and of a storage host of ours: nobody is asked, and the
// kernel reconnects.
func TestNobodyToAsk(t *testing.T) {
	t.Parallel()
	for name, w := range map[string]*world{"no cluster": newWorld(1), "managed": clustered(), "no table": clustered()} {
		switch name {
		case "managed":
			w.volumes[0].Managed = true
		case "no table":
			w.volumes[0].Table = ""
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubbleOf(t, w, func(r run) {
				r.cut(10 * time.Minute)
				r.pass(2 * time.Second)
				r.expect(0, Serving)
				r.expectCalls("owner", 0)
				r.expectCalls("drop", 0)
			})
		})
	}
}

// What is another's gets nothing from this node, and its waiting ends after the grace.
func TestGivenAway(t *testing.T) {
	t.Parallel()
	inBubbleOf(t, clustered(), func(r run) {
		r.do(func() { r.owner[idOf(0)] = Anothers })
		r.cut(time.Minute)
		r.pass(time.Second)
		r.expect(0, Fenced)
		r.do(func() { r.owner[idOf(0)] = Nobodys }) // the other has let go of it, and has written to it
		r.pass(DefaultGrace + 2*time.Second)
		r.expect(0, Failing)
		r.expectCalls("feed", 0)
		r.expectCalls("end withdrawn", 1)
	})
}

// What is nobody's waits, and goes on if that was a mistake.
func TestDetached(t *testing.T) {
	t.Parallel()
	inBubbleOf(t, clustered(), func(r run) {
		r.do(func() { r.owner[idOf(0)] = Nobodys })
		r.cut(time.Minute)
		r.pass(time.Hour)
		r.expect(0, Detached)
		r.expectCalls("feed", 0)
		r.do(func() { r.owner[idOf(0)] = Ours })
		r.pass(askSeldom + askEvery)
		r.expect(0, Serving)
	})
}

// A cluster that does not answer is waited for, and not for ever, which is said. The
// word of an earlier outage is none on this.
func TestClusterSilent(t *testing.T) {
	t.Parallel()
	inBubbleOf(t, clustered(), func(r run) {
		r.cut(time.Minute)
		r.pass(time.Second)
		r.expect(0, Serving)
		r.do(func() { r.fail["owner "+idOf(0)] = errFake })
		r.cut(time.Minute)
		r.pass(clusterTime - 2*time.Second)
		if !r.expect(0, Waiting).Asks {
			t.Error("nobody is told what it waits for")
		}
		r.pass(4 * time.Second)
		r.expect(0, Serving)
		const want = "the cluster does not say whether the volume is still this node's"
		if said := strings.Join(r.said.lines(), "\n"); strings.Count(said, want) != 1 {
			t.Errorf("said:\n%s", said)
		}
	})
}

// A cluster that has said that the volume is another's, and then nothing, has said it.
func TestSilentAfterward(t *testing.T) {
	t.Parallel()
	inBubbleOf(t, clustered(), func(r run) {
		r.do(func() { r.owner[idOf(0)] = Anothers; r.fail["end withdrawn v0"] = errFake })
		r.cut(time.Minute)
		r.pass(time.Second)
		r.expect(0, Fenced)
		r.do(func() { r.fail["owner v0"] = errFake })
		r.cut(time.Minute) // the answer was of the outage before
		r.pass(time.Hour)
		r.expect(0, Fenced)
		r.expectCalls("feed", 0)
	})
}

// A feed that fails for long, and a cluster that is gone by then.
func TestSilentAfterOurs(t *testing.T) {
	t.Parallel()
	inBubbleOf(t, clustered(), func(r run) {
		r.do(func() { r.fail["feed holdfast-v0"] = errFake })
		r.cut(time.Minute)
		r.pass(good + 2*time.Second)
		r.do(func() { delete(r.fail, "feed holdfast-v0"); r.fail["owner v0"] = errFake })
		r.pass(clusterTime + askEvery + good)
		r.expect(0, Serving)
	})
}

// The answer comes when the target was away once more: it is not taken for one on what
// has happened meanwhile.
func TestAwayAgain(t *testing.T) {
	t.Parallel()
	inBubbleOf(t, clustered(), func(r run) {
		release := make(chan struct{})
		r.do(func() { r.block["owner v0"] = release })
		r.cut(time.Minute)
		r.pass(2 * time.Second)
		r.expect(0, Waiting)
		r.cut(time.Minute)
		r.do(func() { r.owner[idOf(0)] = Anothers; delete(r.block, "owner v0") })
		// What hangs has been asked before: it says that the volume is ours.
		r.watch.acts.done <- func() { r.watch.volumes[idOf(0)].answered(Ours, time.Now().Add(-time.Minute), time.Now()) }
		r.pass(time.Second)
		r.expectCalls("feed", 0)
		close(release)
		r.pass(2*askEvery + time.Second)
		r.expect(0, Fenced)
		r.expectCalls("feed", 0)
	})
}

// What the cluster needs long to say it is given the time for: the minute is for one
// that does not answer.
func TestSlowCluster(t *testing.T) {
	t.Parallel()
	inBubbleOf(t, clustered(), func(r run) {
		release := make(chan struct{})
		r.do(func() { r.owner[idOf(0)] = Anothers; r.block["owner v0"] = release })
		r.cut(time.Minute)
		r.pass(5 * clusterTime)
		r.expectCalls("feed", 0)
		close(release)
		r.pass(time.Second)
		r.expect(0, Fenced)
	})
}

// Two volumes of one session: each has its own word, and one that cannot be asked about
// takes nothing from the other.
func TestTwoOfOneSession(t *testing.T) {
	t.Parallel()
	w := clustered()
	second := w.volumes[0]
	second.ID, second.Table = "second", "holdfast-second"
	w.volumes = append(w.volumes, second)
	w.tables[second.Table] = &fakeTable{events: 1, State: servingOn(w.disks[nqnOf(0)])}
	w.owner["second"] = Anothers
	inBubbleOf(t, w, func(r run) {
		r.do(func() { r.pathFails("holdfast-second") })
		r.cut(time.Minute)
		r.pass(time.Second)
		r.expect(0, Serving)
		if got, _ := r.watch.Report("second"); got.State != Fenced {
			t.Errorf("the second is %s", got.State)
		}
		r.expectCalls("drop", 1)
	})
}

// The dead connections stay where a volume of theirs would lose its device with them;
// one that has ended has none to lose.
func TestDropSpares(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		second Volume
		drops  int
	}{
		"managed":     {Volume{Table: "holdfast-second", Managed: true}, 0},
		"no table":    {Volume{}, 0},
		"ended":       {Volume{Ended: true}, 1},
		"of its kind": {Volume{Table: "holdfast-second"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := clustered()
			c.second.ID, c.second.Session, c.second.Identity = "second", w.volumes[0].Session, w.volumes[0].Identity
			w.volumes = append(w.volumes, c.second)
			if c.second.Table != "" {
				w.tables[c.second.Table] = &fakeTable{events: 1, State: servingOn(w.disks[nqnOf(0)])}
			}
			w.owner["second"] = Ours
			inBubbleOf(t, w, func(r run) {
				r.lose()
				r.pass(10 * time.Minute)
				r.expectCalls("drop", c.drops)
			})
		})
	}
}

// What is nobody's is asked about ever more seldom.
func TestSeldom(t *testing.T) {
	t.Parallel()
	inBubbleOf(t, clustered(), func(r run) {
		r.do(func() { r.owner[idOf(0)] = Nobodys })
		r.cut(time.Minute)
		r.pass(time.Hour)
		if n := r.count("owner"); n < 50 || n > 75 {
			t.Errorf("asked %d times in an hour", n)
		}
	})
}

// The time for which a cluster may be silent is not that of the class.
func TestLimitWhileAsking(t *testing.T) {
	t.Parallel()
	w := clustered()
	w.volumes[0].Session.Config.CtrlLossTmo = 60
	w.fail["owner v0"] = errFake
	inBubbleOf(t, w, func(r run) {
		r.cut(50 * time.Second)
		r.pass(30 * time.Second)
		r.expect(0, Waiting)
		r.do(func() { delete(r.fail, "owner v0") })
		r.pass(askEvery + time.Second)
		r.expect(0, Serving)
	})
}

// A plugin that was started in the middle of the outage knows how long it is.
func TestOutageIsRemembered(t *testing.T) {
	t.Parallel()
	w := clustered()
	inBubbleOf(t, w, func(r run) {
		r.lose()
		r.pass(18 * time.Second)
	})
	w.owner[idOf(0)] = Anothers
	c := w.kept[idOf(0)]
	c.WaitSince = c.WaitSince.Add(-18 * time.Second) // each bubble begins at the same time
	w.kept[idOf(0)] = c
	inBubbleOf(t, w, func(r run) {
		r.pass(4 * time.Second)
		r.expectCalls("drop", 1)
		r.do(func() { r.network = true })
		r.pass(2 * time.Second)
		r.expect(0, Fenced)
		r.expectCalls("feed", 0)
	})
}
