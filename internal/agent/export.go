package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const model = "Holdfast"

// export makes the kernel's target show one session as the store has it. Other
// sessions are neither read nor touched.
func (s *Service) export(ctx context.Context, p *exportedPool, session store.Session) error {
	wanted, keep, err := s.desired(ctx, p, session)
	if err != nil {
		return err
	}
	port := portOf(p)
	actual, err := nvmet.Observe(s.tree, []string{session.NQN}, []uint16{port.ID})
	if err != nil {
		return fmt.Errorf("read the target's state: %w: %w", volume.ErrUnavailable, err)
	}
	forget(actual, session.NQN, keep)
	steps, err := nvmet.Plan(actual, nvmet.Desired{Ports: []nvmet.Port{port}, Subsystems: []nvmet.Subsystem{wanted}})
	if err == nil {
		err = nvmet.Apply(ctx, s.tree, steps)
	}
	return explain(p, err)
}

// desired is the subsystem of a session with every publication that stands.
// Those that are being withdrawn are returned apart: they are the withdrawer's.
func (s *Service) desired(ctx context.Context, p *exportedPool, session store.Session) (nvmet.Subsystem, []uint32, error) {
	sub := nvmet.Subsystem{NQN: session.NQN, Serial: session.Serial, Model: model, HostNQN: session.HostNQN, PortID: portOf(p).ID}
	var ending []uint32
	var pubs []store.Publication
	err := s.db.View(func(tx *store.Tx) (err error) {
		pubs, err = tx.PublicationsIn(session.NQN)
		return err
	})
	if err != nil {
		return sub, nil, err
	}
	p.mu.Lock()
	backing := p.pool
	p.mu.Unlock()
	for _, pub := range pubs {
		if pub.State == pubEnding {
			ending = append(ending, pub.NSID)
			continue
		}
		if err := s.usable(ctx, backing, pub); err != nil {
			// This one waits; the others serve.
			s.log.Error("a published volume cannot be exported", "volume", pub.Volume, "node", pub.Node, "err", err)
			continue
		}
		sub.Namespaces = append(sub.Namespaces, nvmet.Namespace{NSID: pub.NSID, Path: backing.Path(pub.Volume), UUID: pub.Volume, NGUID: pub.NGUID})
	}
	return sub, ending, nil
}

// usable: a file that is missing or shorter than its record would be another
// disk to the node.
func (s *Service) usable(ctx context.Context, backing pool.Pool, pub store.Publication) error {
	rec, err := s.ready(pub.Volume)
	if err != nil {
		return err
	}
	info, err := backing.Inspect(ctx, pub.Volume)
	if err == nil && info.SizeBytes < rec.SizeBytes {
		err = fmt.Errorf("volume %s has %d bytes in the pool and %d on record: %w", pub.Volume, info.SizeBytes, rec.SizeBytes, volume.ErrDataLoss)
	}
	return err
}

// forget takes namespaces that are being withdrawn out of an observed state, so
// that a plan neither keeps nor removes them.
func forget(actual nvmet.State, nqn string, nsids []uint32) {
	sub, ok := actual.Subsystems[nqn]
	if !ok {
		return
	}
	for _, id := range nsids {
		delete(sub.Namespaces, id)
	}
}

func portOf(p *exportedPool) nvmet.Port {
	return nvmet.Port{ID: p.portal.Port(), Address: p.portal.Addr(), TCPPort: p.portal.Port()}
}

// removeSubsystem takes an empty session out of the target.
func (s *Service) removeSubsystem(ctx context.Context, session store.Session) error {
	actual, err := nvmet.Observe(s.tree, []string{session.NQN}, s.portIDs())
	if err != nil {
		return fmt.Errorf("read the target's state: %w: %w", volume.ErrUnavailable, err)
	}
	steps, err := nvmet.Plan(actual, nvmet.Desired{Absent: []string{session.NQN}})
	if err == nil {
		err = nvmet.Apply(ctx, s.tree, steps)
	}
	if err != nil {
		return fmt.Errorf("remove subsystem %s: %w: %w", session.NQN, volume.ErrPending, err)
	}
	return nil
}

func (s *Service) portIDs() []uint16 {
	var ids []uint16
	for _, name := range s.poolNames() {
		ids = append(ids, portOf(s.pools[name]).ID)
	}
	return ids
}

// explain turns what the kernel says when a port cannot listen into what to do.
func explain(p *exportedPool, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen on %s for pool %s: the address is already in use; stop what uses it or give the pool another port: %w: %w", p.portal, p.name, volume.ErrUnavailable, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s for pool %s: this machine does not have the address (yet): %w: %w", p.portal, p.name, volume.ErrUnavailable, err)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("export from pool %s: %w: %w", p.name, volume.ErrUnavailable, err)
	default:
		return fmt.Errorf("export from pool %s on %s: %w: %w", p.name, p.portal, volume.ErrUnavailable, err)
	}
}
