package guard

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// TestLetFail: for a second the bare device stands in the place of the table, and
// then the table again.
func TestLetFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, g, o := onA(t)
		must(t, f.Message(table, "fail_path "+pathA.dev()))
		done := make(chan error)
		go func() { done <- g.LetFail(table, pathA, false, o.proof) }()
		time.Sleep(letFailTime / 2)
		if s, err := g.State(table); err != nil || !s.Bare || !s.HasTable || s.Suspended || s.Queues || s.Path != pathA.dev() || s.SizeBytes != pathA.SizeBytes {
			t.Errorf("meanwhile: %+v, %v", s, err)
		}
		if err := g.Feed(table, pathA, false, o.proof); !errors.Is(err, volume.ErrBusy) {
			t.Errorf("fed meanwhile: %v", err)
		}
		must(t, <-done)
		f.wantWell(t, table, pathA)
		if o.opened != o.closed {
			t.Errorf("%d opened, %d closed", o.opened, o.closed)
		}
	})
}

// What is not the volume is never exposed.
func TestLetFailProof(t *testing.T) {
	t.Parallel()
	for at := 1; at <= 2; at++ {
		f, g, _ := onA(t)
		must(t, f.Message(table, "fail_path "+pathA.dev()))
		asked, wrong := 0, errors.New("another volume")
		err := g.LetFail(table, pathA, false, func() error {
			if asked++; asked == at {
				return wrong
			}
			return nil
		})
		if d := f.look(table); !errors.Is(err, wrong) || d.live.bare || d.live.active || d.fresh != nil || d.Suspended {
			t.Errorf("wrong at proof %d: %v, %+v, %+v", at, err, d.live, d.fresh)
		}
	}
}

// Killed or failing at any call of it, the next feed makes the table whole.
func TestLetFailInterrupted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := everyFault(t, func() *fake { return startedAt(t, starts["held"]) },
			func(f *fake) error { g, o := f.guards(); return g.LetFail(table, pathA, false, o.proof) },
			func(f *fake) {
				g, o := f.guards()
				must(t, g.Feed(table, pathA, false, o.proof))
				f.wantWell(t, table, pathA)
			})
		if calls < 6 {
			t.Errorf("only %d calls", calls)
		}
	})
}
