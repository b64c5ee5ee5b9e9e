package agent

import (
	"context"
	"fmt"
	"sync"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// waitLocks are mutexes by name whose waiting ends with the context. A node's
// publications come in bursts and queue here for a few milliseconds each; a
// holder that hangs makes the others fail in time instead of hanging too.
type waitLocks struct {
	mu   sync.Mutex
	held map[string]*waitLock // guarded by mu
}

type waitLock struct {
	token chan struct{} // holds one element while nobody has the lock
	users int           // holders and waiters; guarded by waitLocks.mu
}

func (l *waitLocks) lock(ctx context.Context, name string) (release func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*waitLock{}
	}
	w, ok := l.held[name]
	if !ok {
		w = &waitLock{token: make(chan struct{}, 1)}
		w.token <- struct{}{}
		l.held[name] = w
	}
	w.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if w.users--; w.users == 0 {
			delete(l.held, name)
		}
	}
	select {
	case <-w.token:
		return func() { w.token <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("another call for the same object is under way: %w (%w)", volume.ErrPending, ctx.Err())
	}
}
