//go:build vm

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestFlushInFlight cuts the path while a flush is under way at the target. The
// fsync that waits for it must not return before the flush has really been done.
// With guard kernel it is the kernel that decides, and what it does is only
// logged: native multipath takes a cancelled flush for one that succeeded.
func TestFlushInFlight(t *testing.T) {
	b := newBench(t, 4*time.Minute)
	b.on("truncate -s 16M /data/flush.img; losetup /dev/loop5 /data/flush.img; dmsetup create --noudevsync slow --table '0 32768 linear /dev/loop5 0'; dmsetup mknodes")
	f := b.target("flush", 4440)
	f.namespace(1, "/dev/mapper/slow")
	for _, guard := range []string{"dm", "kernel"} {
		b.run("guard "+guard, func(b *bench) { b.flushInFlight(f, guard) })
	}
	f.remove()
	b.on("dmsetup remove --noudevsync slow; losetup -d /dev/loop5; rm /data/flush.img")
}

func (b *bench) flushInFlight(f *foreign, guard string) {
	v := f.static("", 16, "nsid", "1", "uuid", f.uuid(1), "guard", guard)
	b.must(b.node.StageVolume(b.ctx, v))
	b.must(b.node.PublishVolume(b.ctx, v, false))
	b.sh("dd if=/dev/urandom of=%s bs=4096 count=1 oflag=direct conv=notrunc status=none", v.Target())
	b.on("dmsetup suspend --noudevsync --noflush slow")
	b.sh("rm -f /run/synced; (sync %s; echo $? >/run/synced) >/dev/null 2>&1 & sleep 1; ! test -e /run/synced", v.Target())
	b.storage.NIC(0).Drop()
	cut := time.Now()
	for time.Since(cut) < 14*time.Second && !b.synced() {
		time.Sleep(250 * time.Millisecond)
	}
	early := b.synced()
	b.Logf("guard %s: fsync has returned %.1f s after the cut, with its flush still under way at the target: %t", guard, time.Since(cut).Seconds(), early)
	if early && guard == "dm" {
		b.Error("an fsync returned whose flush was never done")
	}
	b.on("dmsetup resume --noudevsync slow")
	b.must(b.storage.NIC(0).Heal())
	healed := time.Now()
	for !b.synced() && time.Since(healed) < 30*time.Second {
		time.Sleep(50 * time.Millisecond)
	}
	if got := strings.TrimSpace(b.sh("cat /run/synced")); got != "0" {
		b.Errorf("guard %s: fsync ended with %q", guard, got)
	}
	b.Logf("guard %s: fsync had returned %s after healing", guard, seconds(time.Since(healed)))
	b.must(b.node.UnpublishVolume(b.ctx, v))
	// With guard kernel fsync may have returned long before the session is back.
	b.within(30*time.Second, "unstage", func(ctx context.Context) error { return b.node.UnstageVolume(ctx, v) })
}

func (b *bench) synced() bool {
	return strings.TrimSpace(b.sh("test -e /run/synced && echo yes || true")) == "yes"
}
