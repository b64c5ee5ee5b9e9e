package initiator

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// mutex is a lock whose waiting ends with a context. Make it with newMutex.
type mutex chan struct{}

func newMutex() mutex { return make(mutex, 1) }

func (m mutex) lock(ctx context.Context, what string) error {
	select {
	case m <- struct{}{}:
		return nil
	default:
	}
	select {
	case m <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: waiting for another operation: %w (%w)", what, volume.ErrPending, ctx.Err())
	}
}

func (m mutex) unlock() { <-m }

// sessionLocks has one mutex a subsystem NQN, for as long as somebody uses it.
type sessionLocks struct {
	mu   sync.Mutex
	byID map[string]*sessionLock // guarded by mu
}

type sessionLock struct {
	mutex
	users int // holders and waiters; guarded by sessionLocks.mu
}

// lock takes the lock of nqn. The hold has one owner, the caller.
func (l *sessionLocks) lock(ctx context.Context, nqn string) (*hold, error) {
	l.mu.Lock()
	s := l.byID[nqn]
	if s == nil {
		s = &sessionLock{mutex: newMutex()}
		l.byID[nqn] = s
	}
	s.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if s.users--; s.users == 0 {
			delete(l.byID, nqn)
		}
	}
	if err := s.lock(ctx, "session "+nqn); err != nil {
		leave()
		return nil, err
	}
	h := &hold{release: func() { s.unlock(); leave() }}
	h.share()
	return h, nil
}

// hold is a lock with several owners; the last that is done releases it.
type hold struct {
	owners  atomic.Int32
	release func()
}

func (h *hold) share() { h.owners.Add(1) }

func (h *hold) done() {
	if h.owners.Add(-1) == 0 {
		h.release()
	}
}
