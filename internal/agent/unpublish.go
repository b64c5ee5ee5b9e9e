package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Unpublish ends the right of a node (of every node if node is "") to a
// volume. When it answers nil the namespace is gone: no write of that node can
// land any more. That it was begun is on disk first, so that a crash cannot
// bring the right back.
func (s *Service) Unpublish(ctx context.Context, id uuid.UUID, node string) error {
	release, err := s.objects.Lock("volume "+id.String(), "unpublish")
	if err != nil {
		return err
	}
	defer release()
	ending, err := s.beginEnding(id, node)
	if err != nil {
		return err
	}
	if err := s.afterRestore(ctx, id); err != nil {
		return uncertain(err)
	}
	for _, p := range ending {
		if err := s.withdraw(ctx, p); err != nil {
			return fmt.Errorf("volume %s: node %s: %w", id, p.Node, uncertain(err))
		}
	}
	return nil
}

// afterRestore keeps a fence and the restore of its pool apart: a restore that
// was planned before the fence was on record would bring the namespace back. So
// it waits for the one that is running; a later one knows. A pool that serves
// has none running, and one whose disk is missing can still be fenced.
func (s *Service) afterRestore(ctx context.Context, id uuid.UUID) error {
	var pool string
	err := s.db.View(func(tx *store.Tx) error {
		rec, err := tx.Volume(id)
		pool = rec.Pool
		return err
	})
	if err != nil {
		return err
	}
	if _, _, err := s.serving(pool); err == nil {
		return nil
	}
	unlock, err := s.sessions.lock(ctx, restoreKey(pool))
	if err == nil {
		unlock()
	}
	return err
}

func restoreKey(pool string) string { return "restore\x00" + pool }

func (s *Service) beginEnding(id uuid.UUID, node string) (ending []store.Publication, err error) {
	err = s.db.Update(func(tx *store.Tx) error {
		if _, err := tx.Volume(id); err != nil {
			return err
		}
		pubs, err := tx.PublicationsOf(id)
		if err != nil {
			return err
		}
		for _, p := range pubs {
			if node != "" && p.Node != node {
				continue
			}
			p.State = pubEnding
			if err := tx.PutPublication(p); err != nil {
				return err
			}
			ending = append(ending, p)
		}
		if len(ending) == 0 {
			return fmt.Errorf("volume %s is not published to node %q: %w", id, node, volume.ErrNotFound)
		}
		return nil
	})
	return ending, err
}

// withdraw takes the namespace of an ending publication away at the target,
// then the subsystem if it was its last, then the records.
func (s *Service) withdraw(ctx context.Context, p store.Publication) error {
	session, err := s.session(p.SubsystemNQN)
	if err != nil {
		return err
	}
	if err := s.withdrawer.Withdraw(ctx, s.tree, p.SubsystemNQN, p.NSID, s.kickAfter); err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	unlock, err := s.sessions.lock(ctx, sessionKey(session.Node, session.Pool, session.Profile))
	if err != nil {
		return err
	}
	defer unlock()
	last, err := s.isLast(p)
	if err != nil {
		return err
	}
	if last {
		if err := s.removeSubsystem(ctx, session); err != nil {
			return err
		}
	}
	return s.db.Update(func(tx *store.Tx) error {
		if err := tx.DeletePublication(p.Volume, p.Node); err != nil || !last {
			return err
		}
		return tx.DeleteSession(p.SubsystemNQN)
	})
}

func (s *Service) session(nqn string) (session store.Session, err error) {
	err = s.db.View(func(tx *store.Tx) (err error) {
		session, err = tx.Session(nqn)
		return err
	})
	if errors.Is(err, volume.ErrNotFound) {
		err = fmt.Errorf("%w: %w", volume.ErrPrecondition, err) // a publication without its session: the store is damaged
	}
	return session, err
}

func (s *Service) isLast(p store.Publication) (last bool, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		pubs, err := tx.PublicationsIn(p.SubsystemNQN)
		last = len(pubs) == 1 && pubs[0].Volume == p.Volume
		return err
	})
	return last, err
}
