package nvmesysfs_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

// A roster is right after whatever is seen in a state or in the names; nothing
// else is looked at while all is well.
func TestRoster(t *testing.T) { synctest.Test(t, testRoster) }

func testRoster(t *testing.T) {
	f := recording(t, "two-paths").WithControl(func(_, attr, value string) error {
		return nil
	})
	r := nvmesysfs.NewRoster(f)
	defer r.Close()
	look := func(step string, fresh bool) {
		t.Helper()
		got, err := r.Controllers()
		if err != nil {
			t.Fatal(err)
		}
		want, err := f.Controllers()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); (diff == "") != fresh {
			t.Errorf("%s: fresh %t, want %t: %s", step, diff == "", fresh, diff)
		}
	}
	const all = "class/nvme/*/"
	look("first", true)
	set(t, f, all+"kato", "17")
	look("a setting that somebody else changed", false)
	if err := r.WriteControl("nvme0", nvmesysfs.ReconnectDelay, "1"); err != nil {
		t.Fatal(err)
	}
	look("after a write of ours", true)
	set(t, f, "class/nvme/nvme0/state", "connecting")
	look("away", true)
	set(t, f, all+"kato", "18")
	look("while it is away", false)
	time.Sleep(2 * time.Second)
	look("while it is away for longer", true)
	set(t, f, "class/nvme/nvme0/state", "live")
	look("back", true)
	set(t, f, all+"kato", "19")
	look("for good", false)
	time.Sleep(time.Minute)
	look("after a while", true)
	if err := os.Remove(filepath.Join(f.Sys, "class", "nvme", "nvme0")); err != nil {
		t.Fatal(err)
	}
	look("a name that was left out, of one that answers", false)
	set(t, f, "class/nvme-subsystem/*/nvme0/state", "") // what is open cannot be read any more
	look("a name is gone", true)
	set(t, f, "class/nvme/nvme1/transport", "pcie")
	time.Sleep(time.Minute)
	look("a disk of the machine itself", true)
}
