package watch

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/holdfast-csi/holdfast/internal/dm"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// acts are those that run beside the loop, one under a key at a time. Only the
// loop touches it, but for done.
type acts struct {
	running map[string]bool
	done    chan func()
}

// tableKey is the key of whatever changes a table.
func tableKey(name string) string { return "table " + name }

func newActs() acts { return acts{running: map[string]bool{}, done: make(chan func(), 64)} }

// start runs f beside the loop unless one under key is running; then is called
// in the loop with what came of it.
func (a *acts) start(ctx context.Context, key string, f func() error, then func(error)) {
	if a.running[key] {
		return
	}
	a.running[key] = true
	go func() {
		err := f()
		result := func() {
			delete(a.running, key)
			then(err)
		}
		select {
		case a.done <- result:
		case <-ctx.Done():
		}
	}()
}

// connectTime bounds one attempt on all portals of a session: the probe, and
// the kernel, which gives up a silent peer after 10 s.
const connectTime = 15 * time.Second

func (w *Watch) carryOut(ctx context.Context, f facts, s *sessionMemory, orders []order) {
	var asked []Volume
	nqn := f.session.NQN
	for _, o := range orders {
		switch o.act {
		case set:
			w.set(o.setting)
		case connect:
			w.connect(ctx, f, s)
		case retire:
			w.acts.start(ctx, "retire "+nqn, func() error { return inTime(ctx, nqn, w.Keeper.Retire) }, w.complain("retire", nqn, nqn))
		case drop:
			w.acts.start(ctx, "drop "+nqn, func() error { return inTime(ctx, nqn, w.Keeper.Drop) }, w.complain("drop", nqn, nqn))
		case rescan:
			w.acts.start(ctx, "rescan "+nqn, func() error { return w.Keeper.Rescan(nqn) }, w.complain("rescan", nqn, nqn))
		case feed:
			w.feed(ctx, o)
		case hold:
			w.hold(ctx, o.volume)
		case ask:
			asked = append(asked, o.volume)
		case end:
			w.end(ctx, o)
		}
	}
	w.ask(ctx, f, s, asked)
}

// inTime does to a session what takes no longer than a connect.
func inTime(ctx context.Context, nqn string, act func(context.Context, string) error) error {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	return act(ctx, nqn)
}

// set writes one setting. The controller may be gone, or not take it just now:
// the next look decides again.
func (w *Watch) set(s setting) {
	if err := w.Sysfs.WriteControl(s.controller, s.attribute, strconv.Itoa(s.value)); err != nil {
		w.Log.Debug("a controller did not take a setting; it is written again at the next look", "controller", s.controller, "attribute", s.attribute, "err", err)
	}
}

// again has the next look come at once, and be a close one at this session: what
// was done to it costs no look at others.
func (w *Watch) again(nqn string) {
	w.seen.due = true
	if w.sessions[nqn] != nil {
		last := w.seen.sessions[nqn]
		last.stale = true
		w.seen.sessions[nqn] = last
	}
}

// complain is for acts that are tried again anyway, on what belongs to a session.
func (w *Watch) complain(act, what, nqn string) func(error) {
	return func(err error) {
		w.again(nqn)
		if err != nil {
			w.Log.Debug("the watch will try again", "act", act, "of", what, "err", err)
		}
	}
}

// end looks at the table again afterwards: that it queues no more is no event.
func (w *Watch) end(ctx context.Context, o order) {
	done := w.complain("end", o.volume.ID, o.volume.Session.NQN)
	w.acts.start(ctx, "end "+o.volume.ID, func() error { return w.Keeper.End(ctx, o.volume, o.why) }, func(err error) {
		delete(w.seen.tables, o.volume.Table)
		if m := w.volumes[o.volume.ID]; m != nil {
			m.ended = err == nil
		}
		done(err)
	})
}

func (w *Watch) connect(ctx context.Context, f facts, s *sessionMemory) {
	nqn := f.session.NQN
	if w.acts.running["connect "+nqn] {
		s.failures-- // it goes on, and is counted
		return
	}
	w.acts.start(ctx, "connect "+nqn, func() error {
		ctx, cancel := context.WithTimeout(ctx, connectTime)
		defer cancel()
		return w.Keeper.Restore(ctx, f.session)
	}, func(err error) {
		if err != nil {
			w.Log.Debug("a session could not be connected again yet", "nqn", nqn, "err", err)
			return
		}
		w.Log.Info("a session was connected again", "nqn", nqn)
		s.failures = 0
		w.again(nqn)
		s.connects++
	})
}

func (w *Watch) hold(ctx context.Context, v Volume) {
	done := w.complain("hold", v.ID, v.Session.NQN)
	w.acts.start(ctx, tableKey(v.Table), func() error { return w.Guards.Hold(v.Table) }, func(err error) {
		delete(w.seen.tables, v.Table)
		done(err)
	})
}

func (w *Watch) feed(ctx context.Context, o order) {
	key := tableKey(o.volume.Table)
	if w.acts.running[key] {
		m := w.volume(o.volume)
		m.feeds, m.feedAt = m.feeds-1, time.Time{} // it is not tried, and is due once the other has ended
		return
	}
	w.acts.start(ctx, key, func() error {
		return w.Guards.Feed(o.volume.Table, o.path, o.ro, w.Keeper.Proof(o.volume.ID, o.path))
	}, func(err error) {
		w.again(o.volume.Session.NQN)
		delete(w.seen.tables, o.volume.Table) // what was left to do is no event of it
		if err == nil {
			if m := w.volumes[o.volume.ID]; m != nil {
				m.swaps++
			}
			return
		}
		if !errors.Is(err, volume.ErrBusy) {
			w.Log.Warn("a volume's device could not be put to use again yet", "volume", o.volume.ID, "disk", o.path.Disk, "err", err)
		}
	})
}

// ask asks whose volumes are, and no further once nobody answers.
func (w *Watch) ask(ctx context.Context, f facts, s *sessionMemory, volumes []Volume) {
	if len(volumes) == 0 || f.now.Before(s.askAt) {
		return
	}
	s.askAt = f.now.Add(askEvery)
	var said map[string]Owner
	w.acts.start(ctx, "ask "+f.session.NQN, func() (err error) {
		said, err = w.owners(ctx, volumes)
		return err
	}, func(err error) {
		if err != nil {
			w.Log.Debug("nobody says whether volumes are still this node's: they wait", "nqn", f.session.NQN, "err", err)
		}
		for _, v := range volumes {
			m, owner := w.volumes[v.ID], said[v.ID]
			switch {
			case m == nil:
			case owner == "":
				m.unanswered(f.now)
			default:
				m.answered(owner, f.now, time.Now())
			}
		}
		w.again(f.session.NQN)
	})
}

// owners asks the storage host about its volumes, one after the other, and the cluster
// about those that have none of ours.
func (w *Watch) owners(ctx context.Context, volumes []Volume) (map[string]Owner, error) {
	var others []string
	said := map[string]Owner{}
	for _, v := range volumes {
		if !v.Managed {
			others = append(others, v.ID)
			continue
		}
		ended, err := w.Keeper.IsWithdrawn(ctx, v.ID)
		switch {
		case err != nil:
			return said, err
		case ended:
			said[v.ID] = Anothers
		default:
			said[v.ID] = Ours
		}
	}
	if len(others) == 0 {
		return said, nil
	}
	owners, err := w.Cluster.Owners(ctx, others)
	maps.Copy(said, owners)
	return said, err
}

// ownPause is how often it is said at most whose controllers there are, which is a
// look at all of them: a new one of ours is claimed by whoever connects it.
const ownPause = time.Second

// own says again which controllers are ours when others are there than the last
// time, and once an audit, because somebody may have cleared the registry away.
func (w *Watch) own(ctx context.Context, controllers []nvmesysfs.Controller, now time.Time) {
	if w.Own == nil {
		return
	}
	names := make([]string, len(controllers))
	for i, c := range controllers {
		names[i] = c.Name
	}
	// Also of one that is gone again by then: whoever connected it has claimed it.
	w.seen.ownDue = w.seen.ownDue || !slices.Equal(names, w.seen.owned)
	pause := audit
	if w.seen.ownDue {
		pause = ownPause
	}
	w.calm = w.calm && !w.seen.ownDue
	w.seen.due = w.seen.due || w.seen.ownDue // also if no volume is left
	if now.Sub(w.seen.ownAt) < pause || w.acts.running["own"] {
		return
	}
	w.seen.ownDue = false
	w.acts.start(ctx, "own", func() error { w.Own(); return nil }, func(error) {
		w.seen.owned, w.seen.ownAt = names, now
	})
}

// scanTime is how long the kernel is kept in a hurry after a connection is back: it
// looks at the namespaces then, command by command, and if the path is lost again
// meanwhile, Linux 6.1 does not begin to recover before such a command has timed
// out.
const scanTime = 15 * time.Second

// hurry keeps the kernel's patience short while it connects one of our controllers,
// or takes one down: what it does by itself it does with the same commands.
func (w *Watch) hurry(all []facts, now time.Time) {
	if w.Patience == nil {
		return
	}
	if slices.ContainsFunc(all, facts.away) {
		w.awayAt = now
	}
	switch soon := now.Sub(w.awayAt) < scanTime; {
	case soon && w.relax == nil:
		w.relax = w.Patience.Hold()
	case !soon && w.relax != nil:
		w.relax()
		w.relax = nil
	}
	w.calm = w.calm && w.relax == nil // or nobody would look when the time is over
}

// strayTime is how long a table that no volume has is left alone: one that is
// being made is on record already, so this is only caution.
const strayTime = 10 * time.Second

// removeStrays removes tables of volumes that are not staged and that nothing
// has open: of a publication that ended while something still had it open, or of
// records that were lost. One that is in use is never touched.
func (w *Watch) removeStrays(ctx context.Context, now time.Time) {
	for name, since := range w.seen.strays {
		if now.Sub(since) < strayTime {
			continue
		}
		w.seen.strays[name] = now
		done := w.complain("remove stray", name, "")
		w.acts.start(ctx, tableKey(name), func() error { return w.removeStray(ctx, name) }, func(err error) {
			if errors.Is(err, errOrphan) && !w.seen.orphans[name] {
				w.seen.orphans[name] = true
				w.Log.Error("a volume is in use and no record knows it: nobody will put its device back after an outage; was the run directory lost? Have its pods started again", "table", name)
			}
			done(err)
		})
	}
}

// errOrphan: in use, and still waiting for whoever puts a path back. One that was
// given up waits for nothing.
var errOrphan = errors.New("it is in use, and no record knows it")

func (w *Watch) removeStray(ctx context.Context, name string) error {
	s, err := w.Guards.State(name)
	switch {
	case err != nil && !errors.Is(err, dm.ErrNotFound): // what belongs to it may be left
		return err
	case s.OpenCount > 0 && s.Queues:
		return errOrphan
	case s.OpenCount > 0:
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, Every)
	defer cancel()
	return w.Guards.Remove(ctx, name)
}
