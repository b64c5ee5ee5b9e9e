package filesystem

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// TestBounded: a call that hangs is left behind and not started again; whoever
// comes while it hangs gets its answer.
func TestBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBounded()
		done, started := make(chan struct{}), 0
		failed := errors.New("failed")
		hang := func() error { started++; <-done; return failed }
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() { first <- b.Do(ctx, "umount /a", hang) }()
		synctest.Wait()
		if !b.Running("umount /a") || b.Running("umount /b") {
			t.Error("running is wrong")
		}
		cancel()
		err := <-first
		if !errors.Is(err, volume.ErrPending) || !errors.Is(err, context.Canceled) {
			t.Errorf("given up with %v", err)
		}
		if err := b.Do(t.Context(), "umount /b", func() error { return nil }); err != nil {
			t.Errorf("another key waits: %v", err)
		}
		joined := make(chan error, 2)
		for range 2 {
			go func() { joined <- b.Do(t.Context(), "umount /a", hang) }()
		}
		synctest.Wait()
		close(done)
		for range 2 {
			if err := <-joined; !errors.Is(err, failed) {
				t.Errorf("joined: %v", err)
			}
		}
		if started != 1 {
			t.Errorf("started %d times", started)
		}
		// It has come back, so the next one is a new one.
		if err := b.Do(t.Context(), "umount /a", func() error { started++; return nil }); err != nil || started != 2 || b.Running("umount /a") {
			t.Errorf("afterwards: %v, started %d times", err, started)
		}
	})
}

// TestBoundedNoTime: a call is begun even when there is no time to wait for it,
// so that repeating it makes progress.
func TestBoundedNoTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		ran := make(chan struct{})
		err := NewBounded().Do(ctx, "sync", func() error { close(ran); return nil })
		<-ran
		if err != nil && !errors.Is(err, volume.ErrPending) {
			t.Error(err)
		}
	})
}
