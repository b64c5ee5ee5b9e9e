package node

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s slots
		var mu sync.Mutex
		running, most := 0, 0
		work := func(key string) {
			release, err := s.take(t.Context(), key)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			running--
			mu.Unlock()
			release()
		}
		began := time.Now()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { work("a") })
		}
		time.Sleep(time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if _, err := s.take(ctx, "a"); !errors.Is(err, volume.ErrPending) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("whose time is over: %v", err)
		}
		cancel()
		if release, err := s.take(t.Context(), "b"); err != nil || time.Since(began) > time.Second {
			t.Errorf("another key: %v after %s", err, time.Since(began))
		} else {
			release()
		}
		wg.Wait()
		if most != formatsAtOnce || time.Since(began) != 3*time.Second {
			t.Errorf("%d at once, all after %s", most, time.Since(began))
		}
		if len(s.inUse)+len(s.users) > 0 {
			t.Errorf("left: %v %v", s.inUse, s.users)
		}
	})
}
