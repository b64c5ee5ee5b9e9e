package guard

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Close lets nothing new begin and waits for what is under way, as long as ctx
// lives: a process that ends interrupts its suspends, and that of a table that grows
// leaves it failing its I/O until it is fed.
func (g *Guards) Close(ctx context.Context) {
	g.mu.Lock()
	g.closed = true
	under := slices.Collect(maps.Values(g.locked))
	g.mu.Unlock()
	for _, done := range under {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
}

func (g *Guards) tryLock(name string) (unlock func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.locked[name] != nil {
		return nil, false
	}
	done := make(chan struct{})
	g.locked[name] = done
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.locked, name)
		close(done)
	}, true
}

func (g *Guards) lock(ctx context.Context, name string) (func(), error) {
	for {
		if unlock, ok := g.tryLock(name); ok {
			return unlock, nil
		}
		g.mu.Lock()
		done, closed := g.locked[name], g.closed
		g.mu.Unlock()
		if closed {
			return nil, fmt.Errorf("guard %s: %w: this process is ending", name, volume.ErrUnavailable)
		}
		if done == nil {
			continue
		}
		select {
		case <-done:
		case <-ctx.Done():
			return nil, fmt.Errorf("guard %s: another call is at it: %w (%w)", name, volume.ErrPending, ctx.Err())
		}
	}
}
