package node_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/node"
)

// TestClocks: they are there for the next process of the same boot, and for
// none of another.
func TestClocks(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		want := map[string]node.Clock{"v": {Generation: 3, Waiting: time.Hour, Withdrawn: time.Minute}}
		w.wantClocks(map[string]node.Clock{})
		w.must(w.node.KeepClocks(want))
		w.wantClocks(want)
		w.restart()
		w.wantClocks(want)
		w.reboot()
		w.wantClocks(map[string]node.Clock{})
		w.must(w.node.KeepClocks(map[string]node.Clock{}))
		w.wantClocks(map[string]node.Clock{})
	})
}

func (w *world) wantClocks(want map[string]node.Clock) {
	w.Helper()
	got, err := w.node.Clocks()
	w.must(err)
	if diff := cmp.Diff(want, got); diff != "" {
		w.Errorf("clocks (-want +got):\n%s", diff)
	}
}

// What is damaged is an error, and not in the way of a start.
func TestClocksDamaged(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.must(w.node.KeepClocks(map[string]node.Clock{"v": {Waiting: 1}}))
		files, err := filepath.Glob(filepath.Join(w.stateDir(), "clocks", "*.json"))
		if err != nil || len(files) != 1 {
			w.Fatal(files, err)
		}
		w.must(os.WriteFile(files[0], []byte("{"), 0o600))
		w.restart()
		if _, err := w.node.Clocks(); err == nil {
			w.Error("read without an error")
		}
	})
}
