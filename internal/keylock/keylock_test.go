package keylock

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

func TestLock(t *testing.T) {
	t.Parallel()
	var s Set
	release, err := s.Lock("vol-1", "stage")
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Lock("vol-1", "unstage")
	if !errors.Is(err, volume.ErrBusy) {
		t.Fatalf("held, and locked again: %v", err)
	}
	for _, text := range []string{"vol-1", "stage", "unstage"} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q does not say %q", err, text)
		}
	}
	other, err := s.Lock("vol-2", "stage")
	if err != nil {
		t.Errorf("another name: %v", err)
	}
	release()
	again, err := s.Lock("vol-1", "unstage")
	if err != nil {
		t.Errorf("released: %v", err)
	}
	// One that releases twice by mistake must not release its successor.
	release()
	if _, err := s.Lock("vol-1", "publish"); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("released by one that no longer held it: %v", err)
	}
	again()
	other()
	if len(s.held) != 0 {
		t.Errorf("left %v", s.held)
	}
}

// TestLockConcurrent: of many at once one holds a name, and none is lost.
func TestLockConcurrent(t *testing.T) {
	t.Parallel()
	var s Set
	var wg sync.WaitGroup
	holders := make([]int, 3) // each guarded by the lock of its name
	got := make([]int, 8)
	for i := range got {
		wg.Go(func() {
			for n := range 3000 {
				name := n % len(holders)
				release, err := s.Lock(fmt.Sprint(name), "test")
				if err != nil {
					continue
				}
				holders[name]++
				if holders[name] != 1 {
					t.Errorf("%d holders", holders[name])
				}
				holders[name]--
				got[i]++
				release()
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range got {
		total += n
	}
	if total == 0 || len(s.held) != 0 {
		t.Errorf("locked %d times, left %v", total, s.held)
	}
}
