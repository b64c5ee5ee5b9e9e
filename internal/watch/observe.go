package watch

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/internal/dm"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

// seen is what the last look found: what is the same needs no full look.
type seen struct {
	stale    bool            // something may have changed that the cheap look does not show
	about    map[string]bool // controllers and subsystems of which the same is true
	due      bool            // the next look is needed in any case
	auditAt  time.Time
	last     glance
	sessions map[string]seenSession
	tables   map[string]seenTable
	strays   map[string]time.Time // our tables that no volume has, since when
	orphans  map[string]bool      // strays in use of which that was said
	owned    []string             // the controllers that there were at the last word on whose they are
	ownAt    time.Time            // when that was
	ownDue   bool                 // others were there since
}

type seenSession struct {
	stale       bool // the last look at it failed
	controllers []nvmesysfs.Controller
	namespaces  []nvmesysfs.Namespace
	volumes     int
}

type seenTable struct {
	events uint32
	at     time.Time // of the look
	table
}

// tableAge is how long a table is taken to be as it was that can only wait, or that a
// call of ours is at, and that had no event: an outage of many volumes would be a
// look at all of them with every step of each.
const tableAge = time.Second

func newSeen() seen {
	return seen{stale: true, about: map[string]bool{}, sessions: map[string]seenSession{}, tables: map[string]seenTable{}, strays: map[string]time.Time{}, orphans: map[string]bool{}}
}

// needsLook says whether a full look is due whatever the cheap one shows.
func (s *seen) needsLook(now time.Time) bool {
	return s.stale || s.due || len(s.about) > 0 || now.Sub(s.auditAt) >= audit
}

// glance is the cheap look: it costs a few small reads for each session and one
// call for all tables.
type glance struct {
	volumes     []Volume
	controllers []nvmesysfs.Controller
	events      map[string]uint32
}

func (w *Watch) glance(volumes []Volume) (g glance, err error) {
	g.volumes = volumes
	if g.controllers, err = w.Sysfs.Controllers(); err != nil {
		return g, err
	}
	g.events, err = w.events()
	return g, err
}

// same says whether two glances saw the same. The volumes are compared by the
// list that they are in: the keeper makes a new one at each change.
func (g glance) same(o glance) bool {
	return len(g.volumes) == len(o.volumes) && (len(g.volumes) == 0 || &g.volumes[0] == &o.volumes[0]) &&
		slices.Equal(g.controllers, o.controllers) && sameEvents(g.events, o.events)
}

// sameEvents looks into the maps only if they are two: hundreds of tables of which
// none has an event are one and the same.
func sameEvents(a, b map[string]uint32) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() || maps.Equal(a, b)
}

// observe looks at every session that has volumes: cheaply at all of them, and
// fully at those that have changed or are not well. With an error it returns
// those that it could see: one that is odd must not hold up the others.
func (w *Watch) observe(g glance, err error, now time.Time) ([]facts, error) {
	if err != nil {
		return nil, err
	}
	volumes, controllers, events := g.volumes, g.controllers, g.events
	how, about := w.thoroughness(now)
	w.noteStrays(volumes, events, now)
	maps.DeleteFunc(w.seen.tables, func(name string, _ seenTable) bool { _, there := events[name]; return !there })
	var out []facts
	var blind []error
	for _, f := range bySession(volumes) {
		f.now = now
		for _, c := range controllers {
			if c.NQN == f.session.NQN {
				f.controllers = append(f.controllers, c)
			}
		}
		tables := w.observeTables(&f, events, how)
		namespaces := w.observeNamespaces(&f, f.thoroughness(how, about))
		if tables != nil || namespaces != nil {
			w.again(f.session.NQN)
			blind = append(blind, tables, namespaces)
		}
		if namespaces == nil {
			out = append(out, f)
		}
	}
	return out, errors.Join(blind...)
}

// thoroughness is what a look reads.
type thoroughness int

const (
	onlyChanged thoroughness = iota // what the cheap look shows to have changed
	hinted                          // what is new, too
	everything
)

// thoroughness decides how the next look is done, and at which controllers and
// subsystems it is to find what is new in any case; and notes that it is done.
func (w *Watch) thoroughness(now time.Time) (how thoroughness, about map[string]bool) {
	stale, about := w.seen.stale, w.seen.about
	w.seen.stale, w.seen.about = false, map[string]bool{}
	switch {
	case w.seen.auditAt.IsZero() || now.Sub(w.seen.auditAt) >= audit:
		w.seen.auditAt = now
		return everything, about
	case stale:
		return hinted, about
	default:
		return onlyChanged, about
	}
}

// thoroughness is that of a look at one session.
func (f facts) thoroughness(how thoroughness, about map[string]bool) thoroughness {
	if how == onlyChanged && slices.ContainsFunc(f.controllers, func(c nvmesysfs.Controller) bool { return about[c.Name] || about[c.Subsystem] }) {
		return hinted
	}
	return how
}

func (w *Watch) events() (map[string]uint32, error) {
	if w.Guards == nil {
		return map[string]uint32{}, nil
	}
	return w.Guards.List()
}

// bySession groups volumes by their session, in the order of their NQNs.
func bySession(volumes []Volume) []facts {
	byNQN := map[string]*facts{}
	var nqns []string
	for _, v := range volumes {
		nqn := v.Session.NQN
		if byNQN[nqn] == nil {
			byNQN[nqn] = &facts{session: v.Session, tables: map[string]table{}}
			nqns = append(nqns, nqn)
		}
		f := byNQN[nqn]
		f.volumes = append(f.volumes, v)
		if !v.Ended {
			// Each volume has the addresses that it was told last.
			f.portals = initiator.JoinPortals(f.portals, v.Session.Portals)
		}
		f.eager = f.eager || v.Eager
		f.finite = f.finite || v.Finite
	}
	slices.Sort(nqns)
	out := make([]facts, 0, len(nqns))
	for _, nqn := range nqns {
		if f := byNQN[nqn]; len(f.portals) > 0 {
			f.session.Portals = f.portals
		}
		out = append(out, *byNQN[nqn])
	}
	return out
}

// observeTables looks at the tables that had an event since the last time, or
// are not well.
func (w *Watch) observeTables(f *facts, events map[string]uint32, how thoroughness) error {
	var blind []error
	for _, v := range f.volumes {
		if v.Table == "" {
			continue
		}
		t, err := w.observeTable(f, v, events, how)
		if err != nil {
			blind = append(blind, fmt.Errorf("volume %s: %w", v.ID, err))
		}
		f.tables[v.Table] = t
	}
	return errors.Join(blind...)
}

func (w *Watch) observeTable(f *facts, v Volume, events map[string]uint32, how thoroughness) (table, error) {
	n, there := events[v.Table]
	last, known := w.seen.tables[v.Table]
	switch {
	case !there:
		return w.saw(v.Table, seenTable{table: table{absent: true}}), nil
	case how == everything || !known || last.absent || last.events != n || w.doubtful(f, v, last):
		return w.lookAtTable(v.Table, seenTable{events: n, at: f.now})
	case f.live() && w.acts.running[tableKey(v.Table)]:
		return table{unseen: true}, nil // what it was like before does not say that it serves
	default:
		return last.table, nil
	}
}

func (w *Watch) lookAtTable(name string, now seenTable) (table, error) {
	s, err := w.Guards.State(name)
	switch {
	case errors.Is(err, dm.ErrNotFound):
		return w.saw(name, seenTable{table: table{absent: true}}), nil
	case err != nil:
		delete(w.seen.tables, name)
		return table{unseen: true}, err
	}
	now.State = s
	return w.saw(name, now), nil
}

func (w *Watch) saw(name string, now seenTable) table {
	w.seen.tables[name] = now
	return now.table
}

// doubtful says whether a table has to be looked at that had no event since the last
// time. Not all that may happen to it is one.
func (w *Watch) doubtful(f *facts, v Volume, last seenTable) bool {
	switch {
	case w.well(v.ID) || v.Ended:
		return false
	case f.live() && !w.acts.running[tableKey(v.Table)]:
		return true
	default:
		return f.now.Sub(last.at) >= tableAge
	}
}

// well says whether the last decision found a volume serving, with nothing left to do.
func (w *Watch) well(id string) bool {
	m := w.volumes[id]
	return m != nil && m.well()
}

// observeNamespaces looks at the disks of a session: what such a look costs is
// proportional to their number. While no controller is live there is nothing to
// be found.
func (w *Watch) observeNamespaces(f *facts, how thoroughness) error {
	nqn := f.session.NQN
	last := w.seen.sessions[nqn]
	needed := how != onlyChanged || f.leaving() || last.stale || last.volumes != len(f.volumes) || !slices.Equal(last.controllers, f.controllers) ||
		slices.ContainsFunc(f.volumes, func(v Volume) bool { return !v.Ended && (!w.well(v.ID) || w.failed(f, v)) })
	if !f.live() || !needed {
		f.namespaces = last.namespaces
		last.controllers = f.controllers
		w.seen.sessions[nqn] = last
		return nil
	}
	s, err := w.Sysfs.SessionSince(nqn, f.subsystems(), w.known(f, how))
	if err != nil {
		return fmt.Errorf("session %s: %w", nqn, err)
	}
	f.namespaces, f.looked = s.Namespaces, true
	w.seen.sessions[nqn] = seenSession{controllers: f.controllers, namespaces: s.Namespaces, volumes: len(f.volumes)}
	return nil
}

// known takes over what is known of the disks of volumes that are well: of 200
// volumes one that comes or goes must not cost a look at all the others.
func (w *Watch) known(f *facts, how thoroughness) func(disk string) (nvmesysfs.Namespace, bool) {
	if how == everything {
		return func(string) (nvmesysfs.Namespace, bool) { return nvmesysfs.Namespace{}, false }
	}
	// Of no other: the kernel gives the name of a disk that is gone to the next one.
	// One that serves a volume is held open by its table, and keeps its name.
	serving := map[uint32]bool{}
	for _, v := range f.volumes {
		if w.well(v.ID) && !w.failed(f, v) {
			serving[v.Identity.NSID] = true
		}
	}
	byDisk := map[string]nvmesysfs.Namespace{}
	for _, ns := range w.seen.sessions[f.session.NQN].namespaces {
		if serving[ns.NSID] {
			byDisk[ns.Disk] = ns
		}
	}
	return func(disk string) (nvmesysfs.Namespace, bool) {
		ns, ok := byDisk[disk]
		return ns, ok
	}
}

// failed says whether the table of v holds its I/O back, or something is left to do.
func (w *Watch) failed(f *facts, v Volume) bool {
	t, ok := f.tables[v.Table]
	return ok && (t.absent || !t.Active || t.Holds || t.Suspended || t.NewTable || t.Untidy || !t.Queues)
}

// noteStrays keeps count of our tables that belong to no volume.
func (w *Watch) noteStrays(volumes []Volume, events map[string]uint32, now time.Time) {
	ours := map[string]bool{}
	for _, v := range volumes {
		ours[v.Table] = true
	}
	for name := range events {
		if _, known := w.seen.strays[name]; !ours[name] && !known {
			w.seen.strays[name] = now
		}
	}
	for name := range w.seen.strays {
		if _, there := events[name]; !there || ours[name] {
			delete(w.seen.strays, name)
			delete(w.seen.orphans, name)
		}
	}
}
