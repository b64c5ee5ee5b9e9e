package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

const (
	pubPublished = "published"
	pubEnding    = "ending"
	// maxNSID ends a session's NSIDs long before the kernel does (2^31 − 1): at
	// each scan a host with Linux 6.1 steps through every number of a gap, which
	// takes it minutes for 10^9 of them (measured) and no time for 10^6. A
	// session that has used them up is followed by another.
	maxNSID = 1 << 20
	// maxNamespaces is how many namespaces nvmet holds in a subsystem at a time
	// (NVMET_MAX_NAMESPACES).
	maxNamespaces = 1024
	maxProfile    = 2048 // bytes
)

// Publish gives a node the right to a volume. The publication is on disk before
// it is exported, and exported before it is answered.
func (s *Service) Publish(ctx context.Context, req volume.PublishRequest) (volume.Publication, error) {
	if err := validatePublish(req); err != nil {
		return volume.Publication{}, err
	}
	release, err := s.objects.Lock("volume "+req.Volume.String(), "publish")
	if err != nil {
		return volume.Publication{}, err
	}
	defer release()
	rec, err := s.ready(req.Volume)
	if err != nil {
		return volume.Publication{}, err
	}
	exported, _, err := s.serving(rec.Pool)
	if err != nil {
		return volume.Publication{}, err
	}
	if err := s.finishEnding(ctx, req.Volume); err != nil {
		return volume.Publication{}, err
	}
	unlock, err := s.sessions.lock(ctx, sessionKey(req.Node, rec.Pool, req.Profile))
	if err != nil {
		return volume.Publication{}, err
	}
	defer unlock()
	if err := s.settle(ctx, req, rec.Pool); err != nil {
		return volume.Publication{}, err
	}
	var pub store.Publication
	var session store.Session
	err = s.db.Update(func(tx *store.Tx) (err error) {
		pub, session, err = s.grant(tx, req)
		return err
	})
	if err != nil {
		return volume.Publication{}, err
	}
	if err := s.export(ctx, exported, session, pub); err != nil {
		return volume.Publication{}, fmt.Errorf("volume %s: %w", req.Volume, uncertain(err))
	}
	return s.toPublication(pub, rec, exported), nil
}

// settle waits for what is just being withdrawn from the sessions that may take one
// more, or each publish beside an unpublish would begin a session of its own.
func (s *Service) settle(ctx context.Context, req volume.PublishRequest, pool string) error {
	var nqns []string
	err := s.db.View(func(tx *store.Tx) error {
		sessions, err := tx.SessionsOf(req.Node, pool, req.Profile)
		for _, c := range sessions {
			nqns = append(nqns, c.NQN)
		}
		return err
	})
	s.settled(ctx, nqns...) // what is not is passed over
	return err
}

// finishEnding completes an unpublish that was begun and not finished: the
// generation may only grow after it.
func (s *Service) finishEnding(ctx context.Context, id uuid.UUID) error {
	pubs, err := s.publicationsOf(id)
	if err != nil {
		return err
	}
	for _, p := range pubs {
		if p.State == pubEnding {
			if err := s.withdraw(ctx, p); err != nil {
				return fmt.Errorf("volume %s: an earlier publication is still being withdrawn: %w", id, err)
			}
		}
	}
	return nil
}

func (s *Service) publicationsOf(id uuid.UUID) (pubs []store.Publication, err error) {
	err = s.db.View(func(tx *store.Tx) (err error) {
		pubs, err = tx.PublicationsOf(id)
		return err
	})
	return pubs, err
}

func (s *Service) publicationsIn(nqn string) (pubs []store.Publication, err error) {
	err = s.db.View(func(tx *store.Tx) (err error) {
		pubs, err = tx.PublicationsIn(nqn)
		return err
	})
	return pubs, err
}

// grant decides and records, inside one transaction.
func (s *Service) grant(tx *store.Tx, req volume.PublishRequest) (store.Publication, store.Session, error) {
	fail := func(err error) (store.Publication, store.Session, error) {
		return store.Publication{}, store.Session{}, err
	}
	if err := s.inService(tx); err != nil {
		return fail(err)
	}
	rec, err := tx.Volume(req.Volume)
	if err != nil {
		return fail(err)
	}
	pubs, err := tx.PublicationsOf(req.Volume)
	if err != nil {
		return fail(err)
	}
	if len(pubs) > 0 {
		p := pubs[0] // a volume has one publication at a time
		if p.Node != req.Node {
			return fail(fmt.Errorf("volume %s is published to node %s: %w", req.Volume, p.Node, volume.ErrPublishedElsewhere))
		}
		session, err := tx.Session(p.SubsystemNQN)
		if err == nil {
			err = sameRequest(session, req)
		}
		return p, session, err
	}
	session, err := s.sessionFor(tx, rec.Pool, req)
	if err != nil {
		return fail(err)
	}
	rec.LastGeneration++
	pub := store.Publication{
		Volume: req.Volume, Node: req.Node, Generation: rec.LastGeneration, SubsystemNQN: session.NQN,
		NSID: session.NextNSID, NGUID: volume.NGUID(req.Volume, rec.LastGeneration), State: pubPublished,
	}
	session.NextNSID++
	return pub, session, errors.Join(tx.PutVolume(rec), tx.PutSession(session), tx.PutPublication(pub))
}

func sameRequest(have store.Session, req volume.PublishRequest) error {
	for _, f := range []struct{ what, have, want string }{
		{"host NQN", have.HostNQN, req.HostNQN},
		{"host ID", have.HostID, req.HostID},
		{"connection profile", have.Profile, req.Profile},
	} {
		if f.have != f.want {
			return fmt.Errorf("volume %s is published to node %s with %s %q, not %q: unpublish it first: %w", req.Volume, req.Node, f.what, f.have, f.want, volume.ErrExists)
		}
	}
	return nil
}

// sessionFor returns a session of node, pool and profile with room for one
// more, or a new one. One that a volume is being withdrawn from is passed over:
// until that is done the kernel lets nobody look into it. A new session has an NQN
// that never was before, so no NSID is ever used twice in one subsystem.
func (s *Service) sessionFor(tx *store.Tx, pool string, req volume.PublishRequest) (store.Session, error) {
	candidates, err := tx.SessionsOf(req.Node, pool, req.Profile)
	if err != nil {
		return store.Session{}, err
	}
	for _, c := range candidates {
		pubs, err := tx.PublicationsIn(c.NQN)
		if err != nil {
			return store.Session{}, err
		}
		if !s.withdrawer.PendingIn(c.NQN) && len(pubs) < maxNamespaces && c.NextNSID <= maxNSID && c.HostNQN == req.HostNQN && c.HostID == req.HostID {
			return c, nil
		}
	}
	return store.Session{
		NQN:  fmt.Sprintf("%s:%s:%s:%s", volume.NQNPrefix, s.host, pool, randomHex(8)),
		Node: req.Node, HostNQN: req.HostNQN, HostID: req.HostID, Pool: pool, Profile: req.Profile,
		Serial: randomHex(10), NextNSID: 1,
	}, nil
}

// randomHex returns n random bytes in hex; crypto/rand does not fail on Linux.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func sessionKey(node, pool, profile string) string {
	return node + "\x00" + pool + "\x00" + profile
}

func validatePublish(req volume.PublishRequest) error {
	if req.Volume == uuid.Nil {
		return fmt.Errorf("volume UUID is missing: %w", volume.ErrInvalid)
	}
	if err := volume.ValidateNodeID(req.Node); err != nil {
		return err
	}
	if err := nvme.ValidateNQN(req.HostNQN); err != nil {
		return fmt.Errorf("host NQN: %w: %w", volume.ErrInvalid, err)
	}
	if _, err := volume.ParseUUID(req.HostID); err != nil {
		return fmt.Errorf("host ID: %w", err)
	}
	if len(req.Profile) > maxProfile || strings.ContainsFunc(req.Profile, unicode.IsControl) {
		return fmt.Errorf("profile %.40q…: want at most %d bytes without control characters: %w", req.Profile, maxProfile, volume.ErrInvalid)
	}
	return nil
}

func (s *Service) toPublication(p store.Publication, v store.Volume, on *exportedPool) volume.Publication {
	return volume.Publication{
		Volume: p.Volume, Node: p.Node, Generation: p.Generation, SubsystemNQN: p.SubsystemNQN, NSID: p.NSID, NGUID: p.NGUID,
		SizeBytes: v.SizeBytes, BlockSize: v.BlockSize, Portals: []string{on.portal.String()},
		Token: s.token(p.Volume, p.Node, p.Generation),
	}
}

// Publications lists what is published, without tokens.
func (s *Service) Publications(context.Context) ([]volume.Publication, error) {
	var out []volume.Publication
	err := s.db.View(func(tx *store.Tx) error {
		pubs, err := tx.Publications()
		if err != nil {
			return err
		}
		for _, p := range pubs {
			v, err := tx.Volume(p.Volume)
			if err != nil {
				return err
			}
			pub := volume.Publication{Volume: p.Volume, Node: p.Node, Generation: p.Generation, SubsystemNQN: p.SubsystemNQN, NSID: p.NSID, NGUID: p.NGUID, SizeBytes: v.SizeBytes, BlockSize: v.BlockSize}
			if on, ok := s.pools[v.Pool]; ok {
				pub.Portals = []string{on.portal.String()}
			}
			out = append(out, pub)
		}
		return nil
	})
	return out, err
}
