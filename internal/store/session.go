package store

import (
	"errors"
	"fmt"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Session returns the session of that subsystem.
func (t *Tx) Session(nqn string) (Session, error) {
	return get[Session](t.bucket(bucketSessions), []byte(nqn), Session{NQN: nqn}.label())
}

// SessionsOf returns the sessions of a node, pool and profile, ordered by NQN.
func (t *Tx) SessionsOf(node, pool, profile string) ([]Session, error) {
	return follow[Session](t.bucket(bucketProfiles), t.bucket(bucketSessions), sessionPrefix(node, pool, profile), "session")
}

// Sessions returns all sessions, ordered by NQN.
func (t *Tx) Sessions() ([]Session, error) {
	return scan[Session](t.bucket(bucketSessions), "", "session")
}

// PutSession keeps s in place of an earlier one of the same NQN.
func (t *Tx) PutSession(s Session) error {
	if err := s.validate(); err != nil {
		return err
	}
	index := t.bucket(bucketProfiles)
	old, err := t.Session(s.NQN)
	if err == nil {
		err = index.Delete(old.profileKey())
	}
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		return fmt.Errorf("put %s: %w", s.label(), err)
	}
	if err := index.Put(s.profileKey(), []byte(s.NQN)); err != nil {
		return fmt.Errorf("put %s: %w", s.label(), err)
	}
	return put(t.bucket(bucketSessions), []byte(s.NQN), s, s.label())
}

// DeleteSession forgets the session, but not its publications.
func (t *Tx) DeleteSession(nqn string) error {
	s, err := t.Session(nqn)
	if err == nil {
		err = t.bucket(bucketProfiles).Delete(s.profileKey())
	}
	if err == nil {
		err = t.bucket(bucketSessions).Delete([]byte(nqn))
	}
	return wrap(err, "delete")
}

func (s Session) profileKey() []byte {
	return []byte(sessionPrefix(s.Node, s.Pool, s.Profile) + s.NQN)
}
