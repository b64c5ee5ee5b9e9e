package filesystem

import (
	"context"
	"fmt"
	"sync"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Bounded runs calls that may hang in the kernel (syncfs, umount, statfs on a
// path that is gone) and waits for them no longer than the context lives. A
// call that hangs cannot be cancelled and pins a thread, so a second one for
// the same key is not started: it waits for the first and takes its answer.
type Bounded struct {
	mu      sync.Mutex
	running map[string]*pending // guarded by mu
}

type pending struct {
	done chan struct{}
	err  error // valid after done is closed
}

// NewBounded returns an empty set of calls.
func NewBounded() *Bounded { return &Bounded{running: map[string]*pending{}} }

// Do runs f under key. If ctx ends first the error wraps volume.ErrPending and
// the cause, and f goes on alone.
func (b *Bounded) Do(ctx context.Context, key string, f func() error) error {
	p := b.start(key, f)
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("%s: the kernel has not answered yet: %w (%w)", key, volume.ErrPending, ctx.Err())
	}
}

// Running says whether a call under key has not come back.
func (b *Bounded) Running(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.running[key]
	return ok
}

func (b *Bounded) start(key string, f func() error) *pending {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p, ok := b.running[key]; ok {
		return p
	}
	p := &pending{done: make(chan struct{})}
	b.running[key] = p
	go func() {
		p.err = f()
		b.mu.Lock()
		delete(b.running, key)
		b.mu.Unlock()
		close(p.done)
	}()
	return p
}
