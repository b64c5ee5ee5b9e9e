package node

import (
	"context"
	"fmt"
	"sync"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// formatsAtOnce is how many mkfs run for one session. Each takes some 10 MiB, a
// processor, and the journal's 64 MiB and more over the network: a node that gets fifty
// volumes at once is done no later with four, needs a tenth of the memory, and the
// first pods run at once.
const formatsAtOnce = 4

// slots bounds what runs at once, by key. What hangs for one key holds up nothing of
// another.
type slots struct {
	mu    sync.Mutex
	inUse map[string]chan struct{} // guarded by mu; as many elements as run
	users map[string]int           // guarded by mu; those who run or wait
}

// take waits for a slot until ctx ends: volume.ErrPending.
func (s *slots) take(ctx context.Context, key string) (release func(), err error) {
	slot := s.enter(key)
	select {
	case slot <- struct{}{}:
		return func() { <-slot; s.leave(key) }, nil
	case <-ctx.Done():
		s.leave(key)
		return nil, fmt.Errorf("%d others are being formatted: %w (%w)", formatsAtOnce, volume.ErrPending, ctx.Err())
	}
}

func (s *slots) enter(key string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inUse == nil {
		s.inUse, s.users = map[string]chan struct{}{}, map[string]int{}
	}
	if s.inUse[key] == nil {
		s.inUse[key] = make(chan struct{}, formatsAtOnce)
	}
	s.users[key]++
	return s.inUse[key]
}

func (s *slots) leave(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[key]--; s.users[key] == 0 {
		delete(s.inUse, key)
		delete(s.users, key)
	}
}
