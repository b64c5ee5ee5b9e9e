package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const (
	// kickTime bounds how long a kick waits for a restore of the same pool.
	kickTime = 30 * time.Second
	// kickOnce is how long one kick serves all withdrawals from a session: a
	// dead node's volumes are withdrawn together.
	kickOnce = 5 * time.Second
)

// kick disconnects the hosts of a session: what holds up a withdrawal is mostly
// a write whose data never came. Its other volumes wait for the reconnect.
//
// Writing attr_qid_max would do it without a gap on Linux 6.12 and does nothing
// on 6.1 (both measured), so the subsystem is taken off its port and put back,
// behind the gate, where no host can find it missing.
func (s *Service) kick(nqn string) error {
	session, err := s.session(nqn)
	if err != nil {
		return err
	}
	p, ok := s.pools[session.Pool]
	if !ok {
		return fmt.Errorf("pool %q is not configured: %w", session.Pool, volume.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(context.Background(), kickTime)
	defer cancel()
	unlock, err := s.sessions.lock(ctx, restoreKey(p.name))
	if err != nil {
		return err
	}
	defer unlock()
	if time.Since(p.kicked[nqn]) < kickOnce {
		return nil
	}
	s.log.Warn("a fence takes long: the session is disconnected", "nqn", nqn, "node", session.Node)
	port := portOf(p).ID
	closed, err := s.gate.Closed()
	if err == nil {
		err = s.gate.Close(port)
	}
	if err != nil {
		return err
	}
	if err := nvmet.Relink(s.tree, nqn, port); err != nil {
		p.distrust(err) // the restore opens the gate when all is in place again
		return err
	}
	p.kicked[nqn] = time.Now()
	if slices.Contains(closed, port) {
		return nil
	}
	return s.gate.Open(port)
}
