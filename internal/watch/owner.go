package watch

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

// What is in this file is for volumes of somebody else's target. Nobody there keeps a
// node's writes out of a volume once it is another's, so after an outage in which the
// cluster may have given it away, the cluster is asked before I/O goes on.

// Owner is who has a volume, in the words of whoever is asked.
type Owner string

// The owners.
const (
	// Ours: this node, since the volume was staged.
	Ours Owner = "ours"
	// Nobodys: not this node any more, nor another one now. That may be a mistake,
	// and another may have had it meanwhile: I/O waits.
	Nobodys Owner = "nobodys"
	// Anothers: it has been given anew, to another node or once more to this one.
	Anothers Owner = "anothers"
)

// Cluster is asked about volumes that have no storage host of ours. With an error it
// says nothing about those that it does not name.
type Cluster interface {
	Owners(ctx context.Context, volumeIDs []string) (map[string]Owner, error)
}

const (
	// Movable is how long an outage lasts before a volume may be another's. Kubernetes
	// takes a node that is silent for unreachable after 50 s (40 s before 1.32,
	// --node-monitor-grace-period), and lets go of its volumes no sooner. An
	// administrator may have halved that.
	Movable = 20 * time.Second
	// clusterTime is how long a cluster that does not answer is waited for when the
	// volume is there again. A control plane that is away must not take volumes with
	// it for ever.
	clusterTime = time.Minute
	// good is how long its word that the volume is ours is taken for.
	good = 5 * time.Second
	// askSeldom is the longest pause between two questions about what is nobody's.
	askSeldom = time.Minute
	// dropAgain is the pause between two attempts to take dead controllers down.
	dropAgain = 5 * time.Second
)

// unfenced says whether nobody but the cluster knows whose the volume is. Without a
// table nothing could be kept back.
func (r rules) unfenced(v Volume) bool { return r.cluster && !v.Managed && v.Table != "" }

// contested says whether the volume, which is there again, may be another's.
func (m *volumeMemory) contested(r rules, f facts, v Volume) bool {
	if !r.unfenced(v) || m.waitSince.IsZero() || f.now.Sub(m.waitSince) < Movable {
		return false
	}
	if m.backAt.IsZero() {
		m.backAt = f.now
	}
	switch {
	case m.owner == Ours && f.now.Sub(m.ownerAt) < good:
		return false
	case m.owner == Nobodys, m.owner == Anothers, !m.fencedAt.IsZero(): // also if nobody answers any more
		return true
	default:
		return m.silentAt.IsZero() || f.now.Sub(m.silentAt) < clusterTime
	}
}

// away is how long a volume has waited for its target. That it is asked whose it is
// counts only when that takes longer than it may.
func (m *volumeMemory) away(now time.Time) time.Duration {
	waited := now.Sub(m.waitSince)
	if !m.backAt.IsZero() {
		waited -= min(now.Sub(m.backAt), clusterTime+askEvery)
	}
	return waited
}

// unanswered notes that the cluster did not say whose a volume is, and since when.
func (m *volumeMemory) unanswered(asked time.Time) {
	if m.silentAt.IsZero() {
		m.silentAt = asked
	}
}

// answered notes whose a volume is, by an answer to what was asked at a time.
func (m *volumeMemory) answered(owner Owner, asked, now time.Time) {
	m.owner, m.ownerAt, m.silentAt = owner, asked, time.Time{}
	switch {
	case owner == Ours:
		m.fencedAt = time.Time{}
	case owner == Anothers && m.fencedAt.IsZero():
		m.fencedAt = now
	case owner == Nobodys && !m.backAt.IsZero():
		m.askAt = now.Add(min(now.Sub(m.backAt), askSeldom))
	}
}

// forgetOwner is for a volume that is away, or serves: what was said is of another
// outage.
func (m *volumeMemory) forgetOwner() {
	m.backAt, m.askAt, m.silentAt, m.owner = time.Time{}, time.Time{}, time.Time{}, ""
}

// bury keeps in mind which controllers of a session are dead: all that are there when
// the last one dies, until they are gone. Those that are made later have nothing under
// way.
func (m *sessionMemory) bury(f facts) {
	names := map[string]bool{}
	for _, c := range f.controllers {
		names[c.Name] = true
	}
	if m.dead == nil {
		m.dead = names
		return
	}
	maps.DeleteFunc(m.dead, func(name string, _ bool) bool { return !names[name] })
}

// drops says whether the dead controllers of a session are to be taken down: the
// kernel sends what was sent to them as soon as they are back, and asks nobody. So it
// comes back to the tables of the volumes, and waits there.
func (r rules) drops(f facts, m *sessionMemory) bool {
	dead := slices.ContainsFunc(f.controllers, func(c nvmesysfs.Controller) bool { return m.dead[c.Name] && !c.Ending() })
	if !dead || f.finite || f.now.Sub(m.lostSince) < Movable || f.now.Before(m.dropAt) {
		return false
	}
	bare := slices.ContainsFunc(f.volumes, func(v Volume) bool { return !v.Ended && !r.unfenced(v) })
	return wanted(f.volumes) && !bare
}
