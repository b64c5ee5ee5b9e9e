package agent

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

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

// endingTime is how long one attempt to finish an unpublish may keep the next
// one, or a caller, waiting.
const endingTime = 2 * time.Second

// finishEndings completes unpublishes that were begun and that nobody waits for
// any more, because of a crash or because the caller has given up.
func (s *Service) finishEndings(ctx context.Context, pool string) {
	_, pubs, err := s.recorded(pool)
	if err != nil {
		s.log.Error("look for unfinished unpublishes", "pool", pool, "err", err)
	}
	for _, inSession := range pubs {
		for _, p := range inSession {
			if p.State != pubEnding || ctx.Err() != nil {
				continue
			}
			err := s.finishOneEnding(ctx, p.Volume)
			if err != nil && !errors.Is(err, volume.ErrBusy) {
				s.log.Warn("an unpublish is not finished yet", "volume", p.Volume, "node", p.Node, "err", err)
			}
		}
	}
}

// finishOneEnding does under the lock of the volume what a repeated Unpublish
// would: a call that holds it is finishing the same work.
func (s *Service) finishOneEnding(ctx context.Context, id uuid.UUID) error {
	release, err := s.objects.Lock("volume "+id.String(), "finish an unpublish")
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, endingTime)
	defer cancel()
	return s.finishEnding(ctx, id)
}

// exportMissing tries again to show what the last restore had to leave out.
func (s *Service) exportMissing(ctx context.Context, p *exportedPool) {
	for at := range p.missingPlaces() {
		pubs, err := s.publicationsIn(at.nqn)
		if err != nil {
			continue
		}
		gone := true
		for _, pub := range pubs {
			if pub.NSID == at.nsid {
				gone = false
				err = s.exportAgain(ctx, p, pub)
			}
		}
		if gone || err == nil {
			p.found(at)
			s.log.Info("nothing is missing of this publication any more", "pool", p.name, "nqn", at.nqn, "nsid", at.nsid)
		}
	}
}

func (s *Service) exportAgain(ctx context.Context, p *exportedPool, pub store.Publication) error {
	release, err := s.objects.Lock("volume "+pub.Volume.String(), "export again")
	if err != nil {
		return err
	}
	defer release()
	var now store.Publication
	var session store.Session
	err = s.db.View(func(tx *store.Tx) (err error) {
		if now, err = tx.Publication(pub.Volume, pub.Node); err == nil {
			session, err = tx.Session(now.SubsystemNQN)
		}
		return err
	})
	if err != nil || now != pub || now.State != pubPublished {
		return err
	}
	unlock, err := s.sessions.lock(ctx, sessionKey(session.Node, session.Pool, session.Profile))
	if err != nil {
		return err
	}
	defer unlock()
	return s.export(ctx, p, session, now)
}
