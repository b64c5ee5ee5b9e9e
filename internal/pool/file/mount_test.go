package file

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// TestOnMountPoint needs a fresh file system mounted at
// HOLDFAST_TEST_POOL_MOUNT, of the type in HOLDFAST_TEST_POOL_FSTYPE, and
// detaches it at the end.
func TestOnMountPoint(t *testing.T) {
	dir, fstype := os.Getenv("HOLDFAST_TEST_POOL_MOUNT"), os.Getenv("HOLDFAST_TEST_POOL_FSTYPE")
	if dir == "" {
		t.Skip("HOLDFAST_TEST_POOL_MOUNT is not set")
	}
	o := Options{Name: "fast", Dir: dir, Installation: "i"}
	if fstype != "xfs" && fstype != "btrfs" && fstype != "ext4" {
		wantErr(t, Init(o), volume.ErrPrecondition, dir, "is on "+fstype+";")
		return
	}
	if err := Init(o); err != nil {
		t.Fatal(err)
	}
	p, ctx := openPool(t, o), t.Context()
	before, err := p.Capacity(ctx)
	if err != nil || len(before.Warnings) != 0 {
		t.Errorf("%+v, %v", before, err)
	}
	id := create(t, p, 64*mib)
	writeAt(t, p.Path(id), 0, make([]byte, 64*mib))
	change(t, p.Path(id), (*os.File).Sync)
	after, err := p.Capacity(ctx)
	if grown := after.ForeignBytes - before.ForeignBytes; err != nil || grown < -8*mib || grown > 8*mib {
		t.Errorf("foreign bytes grew by %d for a volume's data, %v", grown, err)
	}
	t.Logf("%+v", after)

	if err := unix.Unmount(dir, 0); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Fatalf("an open pool could be unmounted: %v", err)
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	_, err = p.Inspect(ctx, id)
	wantErr(t, err, volume.ErrPrecondition, dir)
	wantErr(t, p.Delete(ctx, id), volume.ErrPrecondition, dir)
	_, err = Open(o)
	wantErr(t, err, volume.ErrPrecondition, dir)
}
