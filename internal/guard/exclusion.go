package guard

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

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

// A volume that is led to another disk keeps a processor busy from when its leg
// gives back what it kept until that is on its way to the new disk, and what it is
// in need of meanwhile is the kernel's attention. So one after the other is led
// there, and then one after the other is made as it has to be: side by side they
// would hold each other up. But whoever has the turn may wait for something itself,
// and what is led but not yet as it has to be does not promise as much (0028).
const turnWait = 250 * time.Millisecond

// inTurn carries out a plan once no other has the turn, or after turnWait in any case.
func (g *Guards) inTurn(c *change, plan func(layout) []step) error {
	late := time.NewTimer(turnWait)
	defer late.Stop()
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	case <-late.C:
	}
	if err := g.lookAgain(c); err != nil {
		return err
	}
	return g.carryOut(c, plan(c.layout))
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
