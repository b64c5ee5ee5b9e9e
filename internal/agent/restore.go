package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// retryRestore is how often a pool that could not be restored is tried again.
const retryRestore = 2 * time.Second

// Run restores every pool's exports and returns when ctx ends. Pools do not
// wait for each other. What cannot be restored is tried again; until then the
// pool's port stays behind the gate, so that no node is told that its volume
// does not exist.
func (s *Service) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, name := range s.poolNames() {
		wg.Go(func() { s.keepTrying(ctx, s.pools[name]) })
	}
	wg.Wait()
	<-ctx.Done()
}

func (s *Service) keepTrying(ctx context.Context, p *exportedPool) {
	said := ""
	for {
		began := time.Now()
		n, err := s.restore(ctx, p)
		if err == nil {
			s.log.Info("pool serves", "pool", p.name, "portal", p.portal.String(), "sessions", n, "took", time.Since(began).Round(time.Millisecond))
			return
		}
		if err.Error() != said {
			said = err.Error()
			s.log.Error("pool does not serve; its port stays closed and it is tried again", "pool", p.name, "err", err)
		}
		p.mu.Lock()
		p.problem = err
		p.mu.Unlock()
		select {
		case <-time.After(retryRestore):
		case <-ctx.Done():
			return
		}
	}
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
	port := portOf(p)
	backing, err := s.openPool(p)
	if err != nil {
		return 0, errors.Join(err, s.gate.Close(port.ID))
	}
	if err := s.finishVolumes(ctx, p, backing); err != nil {
		return 0, err
	}
	wanted, err := s.desiredOf(ctx, p)
	if err != nil {
		return 0, err
	}
	actual, err := nvmet.ObserveOwned(s.tree, s.prefix(p.name))
	if err != nil {
		return 0, fmt.Errorf("read the target's state: %w: %w", volume.ErrUnavailable, err)
	}
	steps, err := nvmet.Plan(actual, wanted)
	if err != nil {
		return 0, explain(p, err)
	}
	if len(steps) > 0 {
		if err := s.gate.Close(port.ID); err != nil {
			return 0, err
		}
		if err := nvmet.Apply(ctx, s.tree, steps); err != nil {
			return 0, explain(p, err)
		}
	}
	if err := s.openGate(port.ID); err != nil {
		return 0, err
	}
	p.mu.Lock()
	p.restored, p.problem = true, nil
	p.mu.Unlock()
	return len(wanted.Subsystems), s.finishEndings(ctx, p.name)
}

func (s *Service) prefix(pool string) string {
	return volume.NQNPrefix + ":" + s.host + ":" + pool + ":"
}

func (s *Service) openPool(p *exportedPool) (pool.Pool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pool == nil {
		backing, err := p.open()
		if err != nil {
			return nil, err
		}
		p.pool = backing
	}
	return p.pool, nil
}

func (s *Service) openGate(port uint16) error {
	closed, err := s.gate.Closed()
	if err != nil || !slices.Contains(closed, port) {
		return err
	}
	return s.gate.Open(port)
}

// desiredOf is the whole of one pool: its sessions, and none that the store
// does not know.
func (s *Service) desiredOf(ctx context.Context, p *exportedPool) (nvmet.Desired, error) {
	d := nvmet.Desired{}
	var all []store.Session
	err := s.db.View(func(tx *store.Tx) (err error) {
		all, err = tx.Sessions()
		return err
	})
	if err != nil {
		return d, err
	}
	known := map[string]bool{}
	for _, session := range all {
		known[session.NQN] = true
		if session.Pool != p.name {
			continue
		}
		sub, _, err := s.desired(ctx, p, session)
		if err != nil {
			return d, err
		}
		d.Subsystems = append(d.Subsystems, sub)
	}
	if len(d.Subsystems) > 0 {
		d.Ports = []nvmet.Port{portOf(p)}
	}
	owned, err := nvmet.ObserveOwned(s.tree, s.prefix(p.name))
	for nqn := range owned.Subsystems {
		if !known[nqn] {
			d.Absent = append(d.Absent, nqn)
		}
	}
	slices.Sort(d.Absent)
	return d, err
}

// finishVolumes completes what a crash left half-made or half-deleted.
func (s *Service) finishVolumes(ctx context.Context, p *exportedPool, backing pool.Pool) error {
	var recs []store.Volume
	err := s.db.View(func(tx *store.Tx) (err error) {
		recs, err = tx.Volumes(uuid.Nil, 0)
		return err
	})
	if err != nil {
		return err
	}
	known := map[uuid.UUID]bool{}
	for _, rec := range recs {
		known[rec.UUID] = true
		if rec.Pool != p.name {
			continue
		}
		if err := s.finishVolume(ctx, rec, backing); err != nil {
			s.log.Error("a volume is left half-done; it is finished at the next call for it", "volume", rec.UUID, "state", rec.State, "err", err)
		}
	}
	return s.reportStrangers(ctx, p, backing, known)
}

func (s *Service) finishVolume(ctx context.Context, rec store.Volume, backing pool.Pool) error {
	switch rec.State {
	case stateCreating:
		return s.finishCreate(ctx, &rec, backing)
	case stateDeleting:
		if err := backing.Delete(ctx, rec.UUID); err != nil {
			return err
		}
		return s.db.Update(func(tx *store.Tx) error { return tx.DeleteVolume(rec.UUID) })
	default:
		return nil
	}
}

// reportStrangers names files that no record knows. They are never removed:
// they may be somebody's only copy.
func (s *Service) reportStrangers(ctx context.Context, p *exportedPool, backing pool.Pool, known map[uuid.UUID]bool) error {
	ids, err := backing.List(ctx)
	for _, id := range ids {
		if !known[id] {
			s.log.Warn("the pool holds a volume that is not on record; it is left alone", "pool", p.name, "volume", id, "path", backing.Path(id))
		}
	}
	return err
}

// finishEndings completes unpublishes that were begun before a crash.
func (s *Service) finishEndings(ctx context.Context, pool string) error {
	var pubs []store.Publication
	err := s.db.View(func(tx *store.Tx) (err error) {
		pubs, err = tx.Publications()
		return err
	})
	if err != nil {
		return err
	}
	for _, p := range pubs {
		if p.State != pubEnding {
			continue
		}
		if rec, err := s.ready(p.Volume); err != nil || rec.Pool != pool {
			continue
		}
		if err := s.withdraw(ctx, p); err != nil {
			s.log.Error("an unpublish is left half-done; it is finished at the next call for it", "volume", p.Volume, "node", p.Node, "err", err)
		}
	}
	return nil
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
