package node

import (
	"context"
	"fmt"
	"sync"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// sessionLocks serialises, by NQN, taking a session down with using it: stages
// share it, the last unstage has it alone. Waiting ends with the context,
// because whoever holds it may wait for a dead path.
type sessionLocks struct {
	mu    sync.Mutex
	state map[string]*sessionState // guarded by mu
}

type sessionState struct {
	users   int           // stages under way
	closing bool          // a last unstage is under way
	changed chan struct{} // closed and replaced at every release
}

// share takes the session for a stage.
func (l *sessionLocks) share(ctx context.Context, nqn string) (release func(), err error) {
	return l.take(ctx, nqn, func(s *sessionState) bool {
		if s.closing {
			return false
		}
		s.users++
		return true
	}, func(s *sessionState) { s.users-- })
}

// close takes the session alone.
func (l *sessionLocks) close(ctx context.Context, nqn string) (release func(), err error) {
	return l.take(ctx, nqn, func(s *sessionState) bool {
		if s.closing || s.users > 0 {
			return false
		}
		s.closing = true
		return true
	}, func(s *sessionState) { s.closing = false })
}

func (l *sessionLocks) take(ctx context.Context, nqn string, try func(*sessionState) bool, undo func(*sessionState)) (func(), error) {
	for {
		s, changed, ok := l.attempt(nqn, try)
		if ok {
			return func() { l.release(nqn, s, undo) }, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("session %s: another call is connecting or disconnecting it: %w (%w)", nqn, volume.ErrPending, ctx.Err())
		}
	}
}

func (l *sessionLocks) attempt(nqn string, try func(*sessionState) bool) (*sessionState, <-chan struct{}, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == nil {
		l.state = map[string]*sessionState{}
	}
	s, ok := l.state[nqn]
	if !ok {
		s = &sessionState{changed: make(chan struct{})}
		l.state[nqn] = s
	}
	return s, s.changed, try(s)
}

func (l *sessionLocks) release(nqn string, s *sessionState, undo func(*sessionState)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	undo(s)
	close(s.changed)
	s.changed = make(chan struct{})
	if s.users == 0 && !s.closing {
		delete(l.state, nqn)
	}
}
