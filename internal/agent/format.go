package agent

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// token proves that its bearer was given a publication. It needs no record, so
// a node can also ask about a generation that has ended.
func (s *Service) token(id uuid.UUID, node string, generation uint64) string {
	mac := hmac.New(sha256.New, s.db.Installation().Secret)
	_, _ = fmt.Fprintf(mac, "%s|%s|%d", id, node, generation)
	return hex.EncodeToString(mac.Sum(nil))
}

func (s *Service) checkToken(ref volume.PublicationRef) error {
	if !hmac.Equal([]byte(ref.Token), []byte(s.token(ref.Volume, ref.Node, ref.Generation))) {
		return fmt.Errorf("volume %s, node %q, generation %d: the token is not that of this publication: %w", ref.Volume, ref.Node, ref.Generation, volume.ErrDenied)
	}
	return nil
}

// stands says whether the generation of ref is the volume's current one.
func stands(tx *store.Tx, ref volume.PublicationRef) (bool, error) {
	p, err := tx.Publication(ref.Volume, ref.Node)
	if errors.Is(err, volume.ErrNotFound) {
		return false, nil
	}
	return err == nil && p.Generation == ref.Generation && p.State == pubPublished, err
}

// Status answers a node about its own publication.
func (s *Service) Status(ctx context.Context, ref volume.PublicationRef) (volume.PublicationStatus, error) {
	if err := s.checkToken(ref); err != nil {
		return volume.PublicationStatus{}, err
	}
	var st volume.PublicationStatus
	var rec store.Volume
	err := s.db.View(func(tx *store.Tx) error {
		live, err := stands(tx, ref)
		if err != nil {
			return err
		}
		st.Ended = !live
		if rec, err = tx.Volume(ref.Volume); errors.Is(err, volume.ErrNotFound) {
			return nil
		}
		if err == nil && ref.Generation > rec.LastGeneration {
			// The token is ours and the record is older: the store was put back
			// from a copy. Nothing is known about that generation.
			return fmt.Errorf("volume %s: generation %d is newer than the records (%d); was the state restored from a copy? %w", ref.Volume, ref.Generation, rec.LastGeneration, volume.ErrUnavailable)
		}
		return err
	})
	if err != nil || st.Ended {
		return st, err
	}
	st.Formatting = rec.Formatting
	if on, ok := s.pools[rec.Pool]; ok {
		st.Portals = []string{on.portal.String()}
	}
	st.Blank, err = s.blank(ctx, rec)
	return st, err
}

// blank reads the pool's allocation map. One allocated block is an answer that
// needs no sync; none is believed only after one. There is one look at a volume
// at a time: nodes ask again and again while a disk hangs, and each look that
// hangs holds a thread.
func (s *Service) blank(ctx context.Context, rec store.Volume) (bool, error) {
	_, backing, err := s.serving(rec.Pool)
	if err != nil {
		return false, err
	}
	unlock, err := s.sessions.lock(ctx, "look\x00"+rec.UUID.String())
	if err != nil {
		return false, err
	}
	defer unlock()
	info, err := backing.Inspect(ctx, rec.UUID)
	if err != nil || info.AllocatedBytes > 0 {
		return false, err
	}
	return backing.Blank(ctx, rec.UUID)
}

// BeginFormat permits a format, durably, on positive proof only: the pool has
// no block of the volume, or a format is on record that was never finished, and
// then the volume was never mounted.
func (s *Service) BeginFormat(ctx context.Context, ref volume.PublicationRef) error {
	return s.changeFormat(ref, "begin format", true, func(rec store.Volume) error {
		if rec.Formatting {
			return nil
		}
		blank, err := s.blank(ctx, rec)
		if err == nil && !blank {
			err = fmt.Errorf("volume %s: the pool holds data of it: %w", rec.UUID, volume.ErrNotBlank)
		}
		return err
	})
}

// EndFormat takes the permission back after a format is on the disk.
func (s *Service) EndFormat(_ context.Context, ref volume.PublicationRef) error {
	return s.changeFormat(ref, "end format", false, func(store.Volume) error { return nil })
}

// changeFormat sets the record to formatting if check allows it. The check may
// wait for a disk, so it stands outside of the transaction; the lock of the
// volume keeps its answer true until the record is written.
func (s *Service) changeFormat(ref volume.PublicationRef, what string, formatting bool, check func(store.Volume) error) error {
	if err := s.checkToken(ref); err != nil {
		return err
	}
	release, err := s.objects.Lock("volume "+ref.Volume.String(), what)
	if err != nil {
		return err
	}
	defer release()
	var rec store.Volume
	if err := s.db.View(func(tx *store.Tx) (err error) {
		rec, err = current(tx, ref)
		return err
	}); err != nil {
		return err
	}
	if err := check(rec); err != nil {
		return err
	}
	return s.db.Update(func(tx *store.Tx) error {
		rec, err := current(tx, ref)
		if err != nil {
			return err
		}
		rec.Formatting = formatting
		return tx.PutVolume(rec)
	})
}

// current returns the volume of a publication that stands, else volume.ErrEnded.
func current(tx *store.Tx, ref volume.PublicationRef) (store.Volume, error) {
	live, err := stands(tx, ref)
	if err != nil {
		return store.Volume{}, err
	}
	if !live {
		return store.Volume{}, fmt.Errorf("volume %s, generation %d: %w", ref.Volume, ref.Generation, volume.ErrEnded)
	}
	return tx.Volume(ref.Volume)
}
