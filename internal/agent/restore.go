package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const (
	// retryRestore is how often a pool that could not be restored is tried again.
	retryRestore = 2 * time.Second
	// retryMissing is how often volumes that could not be exported are tried again.
	retryMissing = 10 * time.Second
)

// Run restores every pool's exports and returns when ctx ends. Pools do not
// wait for each other. What cannot be restored is tried again; until then the
// pool's port stays behind the gate, so that no node is told that its volume
// does not exist.
func (s *Service) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, name := range s.poolNames() {
		wg.Go(func() { s.keep(ctx, s.pools[name]) })
	}
	wg.Wait()
	<-ctx.Done()
}

// keep restores a pool, and again whenever it is distrusted.
func (s *Service) keep(ctx context.Context, p *exportedPool) {
	said := ""
	for {
		wait := s.retryMissing
		if p.isRestored() {
			s.exportMissing(ctx, p)
			s.finishEndings(ctx, p.name)
		} else if err := s.restoreAndSay(ctx, p); err != nil {
			wait = s.retryRestore
			if err.Error() != said {
				said = err.Error()
				s.log.Error("pool does not serve; it is tried again", "pool", p.name, "err", err)
			}
			p.fail(err)
		}
		select {
		case <-time.After(wait):
		case <-p.wake:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Service) restoreAndSay(ctx context.Context, p *exportedPool) error {
	began := time.Now()
	n, err := s.restore(ctx, p)
	if err == nil {
		s.finishEndings(ctx, p.name)
		s.log.Info("pool serves", "pool", p.name, "portal", p.portal.String(), "sessions", n, "took", time.Since(began).Round(time.Millisecond))
	}
	return err
}

// restore makes the kernel's target show everything that the store has of one
// pool, before any host can connect to its port. If the target shows all of it
// already, as after a restart of the agent alone, nothing is touched.
func (s *Service) restore(ctx context.Context, p *exportedPool) (sessions int, err error) {
	unlock, err := s.sessions.lock(ctx, restoreKey(p.name))
	if err != nil {
		return 0, err
	}
	defer unlock()
	backing, err := s.openPool(ctx, p)
	if err == nil {
		err = s.finishVolumes(ctx, p, backing)
	}
	if err != nil {
		return 0, errors.Join(err, s.gatePartial(p))
	}
	sessions, err = s.build(ctx, p, backing)
	if err != nil {
		return 0, err
	}
	if err := s.openGate(p); err != nil {
		return 0, err
	}
	p.succeed()
	return sessions, nil
}

// gatePartial closes the gate of a pool that cannot be completed now if hosts
// could find it incomplete: its port listens, and not for all of its sessions.
// A port that does not listen refuses, which hosts survive; one that serves
// everything, as after a restart of the agent, is left alone.
func (s *Service) gatePartial(p *exportedPool) error {
	id := portOf(p).ID
	actual, err := nvmet.ObserveOwned(s.tree, s.prefix(p.name))
	if err != nil {
		return errors.Join(err, s.gate.Close(id))
	}
	links := actual.Ports[id].Links
	if len(links) == 0 {
		return nil
	}
	sessions, pubs, err := s.recorded(p.name)
	if err != nil {
		return err
	}
	for _, session := range sessions {
		for _, pub := range pubs[session.NQN] {
			shown := actual.Subsystems[session.NQN].Namespaces[pub.NSID].Enabled
			if pub.State == pubPublished && (!shown || !slices.Contains(links, session.NQN)) {
				return s.gate.Close(id)
			}
		}
	}
	return nil
}

// build plans and applies until everything is shown that can be. A namespace
// that the kernel refuses is left out, so that one damaged file does not keep
// the others from serving.
func (s *Service) build(ctx context.Context, p *exportedPool, backing pool.Pool) (sessions int, err error) {
	missing := map[place]error{}
	for {
		if err := s.noneWithdrawn(p); err != nil {
			return 0, err
		}
		// The order matters: what is published after the look at the kernel is
		// not in it and not taken away; what is withdrawn after the look at the
		// store waits for this restore.
		actual, err := nvmet.ObserveOwned(s.tree, s.prefix(p.name))
		if err != nil {
			return 0, fmt.Errorf("read the target's state: %w: %w", volume.ErrUnavailable, err)
		}
		wanted, err := s.desired(ctx, p, backing, actual, missing)
		if err != nil {
			return 0, err
		}
		err = s.apply(ctx, p, actual, wanted)
		if err == nil {
			p.setMissing(missing)
			return len(wanted.Subsystems), nil
		}
		nqn, nsid, ok := failedNamespace(err)
		if _, again := missing[place{nqn, nsid}]; !ok || again {
			return 0, explain(p, err)
		}
		missing[place{nqn, nsid}] = err
		s.log.Error("a published volume cannot be exported; the others are", "pool", p.name, "err", err)
	}
}

// noneWithdrawn refuses to look at sessions that a withdrawal keeps everybody
// out of: the look would hang for as long, and with it this pool's kicks.
func (s *Service) noneWithdrawn(p *exportedPool) error {
	sessions, _, err := s.recorded(p.name)
	for _, session := range sessions {
		if s.withdrawer.PendingIn(session.NQN) {
			return fmt.Errorf("a volume is still being withdrawn from subsystem %s: %w", session.NQN, volume.ErrPending)
		}
	}
	return err
}

// apply touches nothing if nothing differs.
func (s *Service) apply(ctx context.Context, p *exportedPool, actual nvmet.State, wanted nvmet.Desired) error {
	steps, err := nvmet.Plan(actual, wanted)
	if err != nil || len(steps) == 0 {
		return err
	}
	// Other ports that sessions are found on are those of an earlier
	// configuration, about to be left one session after the other.
	p.gated = slices.Sorted(maps.Keys(actual.Ports))
	if err := s.gate.Close(append([]uint16{portOf(p).ID}, p.gated...)...); err != nil {
		return err
	}
	return nvmet.Apply(ctx, s.tree, steps)
}

// openGate opens what a restore has closed, this one or one that was killed.
func (s *Service) openGate(p *exportedPool) error {
	closed, err := s.gate.Closed()
	if err != nil {
		return err
	}
	ours := slices.DeleteFunc(closed, func(port uint16) bool { return port != portOf(p).ID && !slices.Contains(p.gated, port) })
	if len(ours) == 0 {
		return nil
	}
	return s.gate.Open(ours...)
}

func (s *Service) prefix(pool string) string {
	return volume.NQNPrefix + ":" + s.host + ":" + pool + ":"
}

// desired is the whole of one pool: its sessions with what is published, less
// what is missing, and none that the store does not know. Namespaces that are
// being withdrawn are taken out of actual, so that the plan leaves them to their
// withdrawer.
func (s *Service) desired(ctx context.Context, p *exportedPool, backing pool.Pool, actual nvmet.State, missing map[place]error) (nvmet.Desired, error) {
	sessions, pubs, err := s.recorded(p.name)
	if err != nil {
		return nvmet.Desired{}, err
	}
	// The port is set up, not listening, before the first session needs it: two
	// that set it up at once would be in each other's way.
	d, known := nvmet.Desired{Ports: []nvmet.Port{portOf(p)}}, map[string]bool{}
	for _, session := range sessions {
		known[session.NQN] = true
		if !strings.HasPrefix(session.NQN, s.prefix(p.name)) {
			return d, fmt.Errorf("session %s is on record, but this host is configured as %q: a host's name is part of its volumes' IDs and cannot change; put it back: %w", session.NQN, s.host, volume.ErrPrecondition)
		}
		if err := s.passUsed(session, actual); err != nil {
			return d, err
		}
		sub := subsystemOf(p, session)
		standing := 0
		for _, pub := range pubs[session.NQN] {
			at := place{pub.SubsystemNQN, pub.NSID}
			if pub.State == pubEnding {
				delete(actual.Subsystems[session.NQN].Namespaces, pub.NSID)
				continue
			}
			standing++
			ns, err := s.namespace(ctx, backing, pub)
			if err != nil && missing[at] == nil {
				missing[at] = err
				s.log.Error("a published volume cannot be exported; the others are", "volume", pub.Volume, "node", pub.Node, "err", err)
			}
			if missing[at] == nil {
				sub.Namespaces = append(sub.Namespaces, ns)
			}
		}
		if standing > 0 {
			d.Subsystems = append(d.Subsystems, sub)
		}
	}
	for _, nqn := range slices.Sorted(maps.Keys(actual.Subsystems)) {
		if !known[nqn] {
			d.Absent = append(d.Absent, nqn)
		}
	}
	return d, nil
}

// recorded returns the sessions of a pool and their publications, as of one moment.
func (s *Service) recorded(pool string) (sessions []store.Session, pubs map[string][]store.Publication, err error) {
	pubs = map[string][]store.Publication{}
	err = s.db.View(func(tx *store.Tx) error {
		all, err := tx.Sessions()
		if err != nil {
			return err
		}
		for _, session := range all {
			if session.Pool != pool {
				continue
			}
			sessions = append(sessions, session)
			if pubs[session.NQN], err = tx.PublicationsIn(session.NQN); err != nil {
				return err
			}
		}
		return nil
	})
	return sessions, pubs, err
}

// passUsed moves a session's counter past every NSID that the kernel shows in
// it: a store that was restored from a copy must not hand one out again.
func (s *Service) passUsed(session store.Session, actual nvmet.State) error {
	next := session.NextNSID
	for nsid := range actual.Subsystems[session.NQN].Namespaces {
		next = max(next, nsid+1)
	}
	if next == session.NextNSID {
		return nil
	}
	return s.db.Update(func(tx *store.Tx) error {
		now, err := tx.Session(session.NQN)
		if err != nil {
			return err
		}
		now.NextNSID = max(now.NextNSID, next)
		return tx.PutSession(now)
	})
}

// StopExports is a planned stop: new connections are dropped first, so that no
// node ever hears that a volume does not exist; then the links to the ports go,
// and the subsystems last. Run brings everything back.
func (s *Service) StopExports(ctx context.Context) error {
	if err := s.gate.Close(s.portIDs()...); err != nil {
		return err
	}
	var errs []error
	for _, name := range s.poolNames() {
		owned, err := nvmet.ObserveOwned(s.tree, s.prefix(name))
		if err != nil {
			return fmt.Errorf("read the target's state: %w", err)
		}
		steps, err := nvmet.Plan(owned, nvmet.Desired{
			Absent: slices.Sorted(maps.Keys(owned.Subsystems)), AbsentPorts: []uint16{portOf(s.pools[name]).ID},
		})
		if err == nil {
			err = nvmet.Apply(ctx, s.tree, steps)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
