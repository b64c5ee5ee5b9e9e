package watch

import (
	"context"
	"maps"
	"time"
)

// Clock is what has to outlive this process of a volume's outage: without it a
// plugin that restarts again and again would end nothing, ever.
type Clock struct {
	// Generation of the publication that the clock is of.
	Generation uint64
	// WaitSince is when the outage began, if the class bounds the waiting or the
	// cluster has to be asked after it; FencedAt when the volume was first said to be
	// another's.
	// Zero is a clock that does not run.
	WaitSince, FencedAt time.Time
}

const (
	// clockAfter spares the disk the outages that are over at once.
	clockAfter = time.Second
	// clockAgain is how long a disk that did not take the clocks is left alone.
	clockAgain = 5 * time.Second
	// inheritPause is what a clock that ran out while nobody looked leaves to this
	// process: the path may be there, and wait for nothing but somebody who puts
	// it back.
	inheritPause = 5 * time.Second
)

// clockwork is what is known of the clocks on disk. Only the loop touches it.
type clockwork struct {
	kept      map[string]Clock // as they are there
	inherited bool
	again     time.Time // not before
	failing   bool
}

// inherit goes on with the clocks of an earlier process, for volumes that are
// staged now; it is done once, because a volume that is staged later under the
// same ID waits for the first time.
func (w *Watch) inherit(volumes []Volume, now time.Time) {
	if w.clocks.inherited {
		return
	}
	w.clocks.inherited = true
	w.clocks.kept = w.Clocks
	for _, v := range volumes {
		c, ok := w.Clocks[v.ID]
		if !ok || c.Generation != v.Generation || v.Ended {
			continue
		}
		m := w.volume(v)
		m.waitSince, m.fencedAt = c.WaitSince, c.FencedAt
		if m.waitSince.IsZero() {
			m.waitSince = c.FencedAt
		}
		m.endAt, m.served = now.Add(inheritPause), true
		if s := w.session(v.Session.NQN); s.lostSince.IsZero() || m.waitSince.Before(s.lostSince) {
			s.lostSince = m.waitSince // if it is live, the first look finds that
		}
		w.Log.Info("an outage goes on that began before this start", "volume", v.ID, "since", now.Sub(m.waitSince).Round(time.Second))
	}
}

// clockOf returns the clock of a volume that has to be kept; false if none has.
// Where nothing follows from how long it waits, it is only that it was given away.
func clockOf(r rules, v Volume, m volumeMemory, now time.Time) (Clock, bool) {
	c := Clock{Generation: v.Generation, FencedAt: m.fencedAt}
	if (v.Session.Config.CtrlLossTmo > 0 || r.unfenced(v)) && !m.waitSince.IsZero() && now.Sub(m.waitSince) >= clockAfter {
		c.WaitSince = m.waitSince
	}
	return c, !v.Ended && (!c.WaitSince.IsZero() || !c.FencedAt.IsZero())
}

// keepClocks brings the clocks to the disk, beside the loop: the disk may hang or
// be full, and nothing waits for it. It says whether they are there.
func (w *Watch) keepClocks(ctx context.Context, volumes []Volume, now time.Time) bool {
	want := map[string]Clock{}
	for _, v := range volumes {
		if m := w.volumes[v.ID]; m != nil {
			if c, ok := clockOf(w.rules(), v, *m, now); ok {
				want[v.ID] = c
			}
		}
	}
	if maps.Equal(want, w.clocks.kept) {
		return true
	}
	if now.Before(w.clocks.again) {
		return false
	}
	w.acts.start(ctx, "clocks", func() error { return w.Keeper.KeepClocks(want) }, func(err error) {
		if err == nil {
			w.clocks.kept, w.clocks.failing = want, false
			return
		}
		w.clocks.again = now.Add(clockAgain)
		if !w.clocks.failing {
			w.Log.Warn("since when volumes wait could not be kept: their limits begin anew if the plugin is restarted now", "err", err)
		}
		w.clocks.failing = true
	})
	return false
}
