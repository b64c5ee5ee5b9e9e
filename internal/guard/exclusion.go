package guard

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Close lets nothing new begin and waits for what is under way, as long as ctx
// lives: a process that ends interrupts its suspends, and a multipath target
// whose suspend was interrupted queues no more until it is told to.
func (g *Guards) Close(ctx context.Context) {
	g.mu.Lock()
	g.closed = true
	under := slices.Collect(maps.Values(g.held))
	g.mu.Unlock()
	for _, done := range under {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
}

func (g *Guards) tryHold(name string) (release func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.held[name] != nil {
		return nil, false
	}
	done := make(chan struct{})
	g.held[name] = done
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.held, name)
		close(done)
	}, true
}

func (g *Guards) hold(ctx context.Context, name string) (func(), error) {
	for {
		if release, ok := g.tryHold(name); ok {
			return release, nil
		}
		g.mu.Lock()
		done, closed := g.held[name], g.closed
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
