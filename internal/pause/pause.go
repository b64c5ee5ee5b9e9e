// Package pause waits for time to pass, and no longer than somebody wants it to.
// What is to be done again, and how often, is its caller's business.
package pause

import (
	"context"
	"time"
)

// For waits for d and says whether ctx let it.
func For(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
