package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Retire implements volume.Retiree. That all publications end is on disk with the
// declaration, so that a restore does not bring them back; the withdrawals themselves
// go on after the answer.
func (s *Service) Retire(_ context.Context, declared time.Time) error {
	if declared.IsZero() {
		return fmt.Errorf("declaration: its time is missing: %w", volume.ErrInvalid)
	}
	ended, news := 0, false
	err := s.db.Update(func(tx *store.Tx) error {
		r, err := tx.Retirement()
		switch {
		case err != nil:
			return err
		case declared.Before(r.Admitted) || declared.Before(r.Declared):
			return fmt.Errorf("the declaration of %s is older than what storage host %s knows (declared %s, admitted %s): %w",
				declared.Format(time.RFC3339Nano), s.host, r.Declared.Format(time.RFC3339Nano), r.Admitted.Format(time.RFC3339Nano), volume.ErrPrecondition)
		case declared.Equal(r.Admitted) || declared.Equal(r.Declared):
			return nil
		}
		r.Declared = declared.UTC()
		if ended, err = endAll(tx); err != nil {
			return err
		}
		news = true
		return tx.PutRetirement(r)
	})
	if err != nil || !news {
		return err
	}
	s.log.Warn("this storage host was declared gone for good: every publication is withdrawn, and none is given until it is admitted again",
		"declared", declared, "publications", ended)
	for _, p := range s.pools {
		p.look()
	}
	return nil
}

func endAll(tx *store.Tx) (n int, err error) {
	pubs, err := tx.Publications()
	if err != nil {
		return 0, err
	}
	for _, p := range pubs {
		p.State = pubEnding
		if err := tx.PutPublication(p); err != nil {
			return 0, err
		}
	}
	return len(pubs), nil
}

// Admit implements volume.Retiree.
func (s *Service) Admit(_ context.Context, declared time.Time) error {
	was := false
	err := s.db.Update(func(tx *store.Tx) error {
		r, err := tx.Retirement()
		if err != nil {
			return err
		}
		if r.Declared.After(declared) {
			return fmt.Errorf("storage host %s was declared gone again at %s, after the declaration that is taken back: %w", s.host, r.Declared.Format(time.RFC3339), volume.ErrPrecondition)
		}
		was = !r.Declared.IsZero()
		if declared.After(r.Admitted) {
			r.Admitted = declared.UTC()
		}
		r.Declared = time.Time{}
		return tx.PutRetirement(r)
	})
	if err == nil && was {
		s.log.Info("this storage host is admitted again")
	}
	return err
}

// inService refuses what a host that was declared gone must not do.
func (s *Service) inService(tx *store.Tx) error {
	r, err := tx.Retirement()
	if err != nil || r.Declared.IsZero() {
		return err
	}
	return fmt.Errorf("storage host %s was declared gone for good at %s, and came back; `holdfast admit %s` in the controller takes it into service again: %w",
		s.host, r.Declared.Format(time.RFC3339), s.host, volume.ErrPrecondition)
}

func (s *Service) retiredSince() (at time.Time, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		r, err := tx.Retirement()
		at = r.Declared
		return err
	})
	return at, err
}
