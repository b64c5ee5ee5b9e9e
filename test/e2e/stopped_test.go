//go:build vm

package e2e

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// TestStoppedFileSystem: the storage host's disk fails for a moment, and with
// guard kernel that reaches the file systems, which do not survive it. The disk is
// well again, the session never was anything else; the volumes say that they have
// failed, their unstage ends, and staged again they hold what was synced.
func TestStoppedFileSystem(t *testing.T) {
	b := newBench(t, 4*time.Minute)
	f := b.target("stopped", 4441)
	var vs []*cluster.Volume
	for i, c := range []struct {
		fsType string
		mib    int64
	}{{"ext4", 24}, {"xfs", 320}} {
		b.on("truncate -s %dM /data/stopped%d; losetup /dev/loop%[3]d /data/stopped%[2]d; dmsetup create --noudevsync stopped%[2]d --table \"0 $(blockdev --getsz /dev/loop%[3]d) linear /dev/loop%[3]d 0\"; dmsetup mknodes", c.mib, i+1, i+5)
		f.namespace(i+1, fmt.Sprintf("/dev/mapper/stopped%d", i+1))
		v := f.static(c.fsType, c.mib, "nsid", strconv.Itoa(i+1), "uuid", f.uuid(i+1), "guard", "kernel", "formatIfZero", "true")
		b.must(b.node.StageVolume(b.ctx, v))
		b.must(b.node.PublishVolume(b.ctx, v, false))
		b.sh("echo kept >%s/kept; sync %[1]s/kept", v.Target())
		vs = append(vs, v)
	}
	become := func(i int, target string) {
		b.on("dmsetup suspend --noudevsync --nolockfs stopped%[1]d; dmsetup reload stopped%[1]d --table \"0 $(blockdev --getsz /dev/loop%[2]d) %[3]s\"; dmsetup resume --noudevsync stopped%[1]d", i+1, i+5, target)
	}
	for i, v := range vs {
		b.wantHealth(v, "")
		become(i, "error")
		// The log cannot be written, and the next that wants to write notices.
		b.sh("cd %s; for i in 1 2; do touch lost$i || true; sync -f . || true; done 2>/dev/null", v.Target())
		become(i, fmt.Sprintf("linear /dev/loop%d 0", i+5))
		b.wantHealth(v, "Failed")
		b.must(b.node.UnpublishVolume(b.ctx, v))
		took := b.within(20*time.Second, "unstage", func(ctx context.Context) error { return b.node.UnstageVolume(ctx, v) })
		b.must(b.node.StageVolume(b.ctx, v))
		b.must(b.node.PublishVolume(b.ctx, v, false))
		b.wantHealth(v, "")
		if got := b.sh("cat %s/kept", v.Target()); got != "kept" {
			b.Errorf("%s holds %q", v.FSType, got)
		}
		b.sh("echo more >%s/more; sync %[1]s/more", v.Target())
		b.Logf("%s: unstaged %s after its file system had stopped, whole again", v.FSType, seconds(took))
	}
	for _, v := range vs {
		b.must(b.node.UnpublishVolume(b.ctx, v))
		b.must(b.node.UnstageVolume(b.ctx, v))
	}
	f.remove()
	b.on("for i in 1 2; do dmsetup remove --noudevsync stopped$i; losetup -d /dev/loop$((i+4)); rm /data/stopped$i; done")
}
