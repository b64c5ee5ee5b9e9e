package watch

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

const (
	// Every is how often the states are looked at while something is not well.
	Every = 250 * time.Millisecond
	// calmEvery is how often while all is. What comes then and is announced by
	// nobody is that a connection has just been lost, and after that the kernel
	// takes a second at least before it tries to connect.
	calmEvery = 2 * Every
	// audit is how often everything is looked at, whether it seems changed or not.
	// Whatever changes is an event of one kind or another, which can be lost.
	audit = 2 * time.Minute
	// DefaultGrace is how long a volume's I/O goes on waiting after the storage
	// host has said that this node's right to it has ended.
	DefaultGrace = 30 * time.Second
)

// Sysfs is what is read of sysfs and written to it; nvmesysfs.FS is the real one.
type Sysfs interface {
	Controllers() ([]nvmesysfs.Controller, error)
	// SessionSince reads a session in its subsystems, and of its disks those that
	// keep does not take over from an earlier look.
	SessionSince(nqn string, subsystems []string, keep func(disk string) (nvmesysfs.Namespace, bool)) (nvmesysfs.Snapshot, error)
	WriteControl(controller, attr, value string) error
}

// Options are what a Watch is made of.
type Options struct {
	Keeper Keeper
	Sysfs  Sysfs
	// Guards may be nil: then no volume has a table.
	Guards Guards
	// Cluster knows whose volumes are that have no storage host of ours. May be nil:
	// then their I/O goes on whenever they are there.
	Cluster Cluster
	// Own tells other tools of the machine which controllers are ours. May be nil.
	Own func()
	// Patience is kept short while a connection of ours is not live. May be nil.
	Patience initiator.Patience
	// Hints wakes the loop at once, and About says what for: the names of controllers
	// and subsystems, or anything. Either may be nil.
	Hints <-chan struct{}
	About func() (names map[string]bool, all bool)
	// Resized does the same when the size of a disk has changed. May be nil.
	Resized <-chan struct{}
	Grace   time.Duration
	// Clocks are those that an earlier process of this boot has kept.
	Clocks map[string]Clock
	Dev    string // "/dev"
	Log    *slog.Logger
}

// Watch is the loop. Make it with New.
type Watch struct {
	Options
	sessions map[string]*sessionMemory
	volumes  map[string]*volumeMemory
	seen     seen
	acts     acts
	clocks   clockwork
	blind    string    // what the last look failed with
	awayAt   time.Time // when a controller was last seen not to be live
	relax    func()    // ends that the kernel's patience is short; nil while it is not
	calm     bool      // after the last look there was nothing to be done or waited for

	mu      sync.Mutex
	reports map[string]Report // by volume ID; guarded by mu
	links   []Link            // guarded by mu
}

// New returns a watch that has seen nothing yet.
func New(o Options) *Watch {
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	return &Watch{
		Options: o, sessions: map[string]*sessionMemory{}, volumes: map[string]*volumeMemory{}, seen: newSeen(),
		acts: newActs(), reports: map[string]Report{},
	}
}

// Run loops until ctx ends. Ending changes nothing: the kernel goes on alone,
// and what has begun is not waited for.
func (w *Watch) Run(ctx context.Context) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		w.once(ctx, time.Now())
		next.Reset(w.pause())
		select {
		case <-next.C:
		case <-w.Hints:
			w.hinted()
		case <-w.Resized:
			w.seen.auditAt = time.Time{}
		case <-w.Keeper.Changed():
			w.seen.stale = true
		case result := <-w.acts.done:
			result()
			w.drain()
		case <-ctx.Done():
			return
		}
	}
}

func (w *Watch) hinted() {
	names, all := map[string]bool(nil), true
	if w.About != nil {
		names, all = w.About()
	}
	w.seen.stale = w.seen.stale || all
	maps.Copy(w.seen.about, names)
}

func (w *Watch) pause() time.Duration {
	if w.calm {
		return calmEvery
	}
	return Every
}

// drain takes what else has ended meanwhile: one look serves all of it.
func (w *Watch) drain() {
	for {
		select {
		case result := <-w.acts.done:
			result()
		default:
			return
		}
	}
}

// once is one look and what follows from it.
func (w *Watch) once(ctx context.Context, now time.Time) {
	volumes := w.Keeper.Volumes()
	w.inherit(volumes, now)
	due := w.seen.needsLook(now)
	if !due && len(volumes)+len(w.volumes)+len(w.seen.strays) == 0 && w.relax == nil {
		return
	}
	w.seen.due = false
	g, err := w.glance(volumes)
	if !due && err == nil && w.calm && g.same(w.seen.last) {
		return // nothing has happened, and nothing is under way
	}
	w.seen.last = g
	all, err := w.observe(g, err, now)
	if w.sayBlind(err); err != nil && len(all) == 0 {
		return
	}
	w.calm = err == nil
	w.own(ctx, g.controllers, now)
	w.hurry(all, now)
	for _, f := range all {
		w.decide(ctx, f)
	}
	w.forget(volumes)
	w.removeStrays(ctx, now)
	w.calm = w.keepClocks(ctx, volumes, now) && w.calm && len(w.seen.strays) == 0
	w.publish(volumes)
}

// decide decides about one session and its volumes, says what has changed, and
// has the orders carried out.
func (w *Watch) decide(ctx context.Context, f facts) {
	r, s := w.rules(), w.session(f.session.NQN)
	w.saySession(f, s)
	orders := decideSession(r, f, s)
	for _, v := range f.volumes {
		m := w.volume(v)
		before := *m
		orders = append(orders, decideVolume(r, f, v, s, m)...)
		w.sayVolume(v, before, *m)
		w.calm = w.calm && m.settled(v)
	}
	w.calm = w.calm && len(orders) == 0 && !f.unfinished()
	if f.looked && !slices.ContainsFunc(f.volumes, func(v Volume) bool { return !v.Ended && !w.well(v.ID) }) {
		s.rescans = 0 // what is missing next is missed for the first time
	}
	w.carryOut(ctx, f, s, orders)
}

func (w *Watch) rules() rules {
	return rules{grace: w.Grace, dev: w.Dev, cluster: w.Cluster != nil}
}

func (w *Watch) session(nqn string) *sessionMemory {
	if w.sessions[nqn] == nil {
		w.sessions[nqn] = &sessionMemory{}
	}
	return w.sessions[nqn]
}

func (w *Watch) volume(v Volume) *volumeMemory {
	if m := w.volumes[v.ID]; m == nil || m.generation != v.Generation {
		w.volumes[v.ID] = &volumeMemory{generation: v.Generation}
	}
	return w.volumes[v.ID]
}

// forget drops what is no longer staged.
func (w *Watch) forget(volumes []Volume) {
	ids, nqns := map[string]bool{}, map[string]bool{}
	for _, v := range volumes {
		ids[v.ID], nqns[v.Session.NQN] = true, true
	}
	for id := range w.volumes {
		if !ids[id] {
			delete(w.volumes, id)
		}
	}
	for nqn := range w.sessions {
		if !nqns[nqn] {
			delete(w.sessions, nqn)
			delete(w.seen.sessions, nqn)
		}
	}
}
