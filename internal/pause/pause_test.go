package pause_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/internal/pause"
)

func TestFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, c := range []struct{ wants, takes time.Duration }{{0, 0}, {59 * time.Second, 59 * time.Second}, {time.Hour, time.Second}, {time.Hour, 0}} {
			began := time.Now()
			let := pause.For(ctx, c.wants)
			if took := time.Since(began); took != c.takes || let != (c.takes == c.wants) {
				t.Errorf("%s: %v after %s, want %s", c.wants, let, took, c.takes)
			}
		}
	})
}
