//go:build vm

package e2e

import (
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// TestAbandonStuckBelow: what was sent to a disk while nobody kept it from there
// waits in the kernel, below the table, and whoever sent it cannot be killed.
// When its volume is given up it fails, with the storage host away and another
// volume in the session, which loses nothing.
func TestAbandonStuckBelow(t *testing.T) {
	b := newBench(t, 3*time.Minute)
	given, kept := b.volume("", 8, "guard", "dm"), b.volume("ext4", 24, "guard", "dm")
	b.use(given, kept)
	w := b.write(kept)
	b.must(b.node.KillPlugin(b.ctx))
	b.must(b.storage.Refuse(b.ctx, 4420))
	b.awaitState(10*time.Second, given, "connecting")
	stuck := make(chan error, 1)
	cmd := b.node.Command(b.ctx, "dd", "if=/dev/zero", "of="+given.File(), "bs=4096", "count=1", "oflag=direct", "status=none")
	go func() { stuck <- cmd.Run() }()
	time.Sleep(time.Second)
	b.must(b.node.StartPlugin(b.ctx))
	time.Sleep(time.Second)
	select {
	case err := <-stuck:
		b.Fatalf("the write did not wait: %v", err)
	default:
	}
	began := time.Now()
	b.sh("/usr/local/bin/holdfast abandon --yes %s", given.ID)
	select {
	case err := <-stuck:
		if err == nil {
			b.Error("a write that cannot have arrived was acknowledged")
		}
		b.Logf("the write failed %s after its volume was given up", seconds(time.Since(began)))
	case <-time.After(15 * time.Second):
		b.Fatal("a write to a volume that was given up still waits")
	}
	b.must(b.node.UnpublishVolume(b.ctx, given))
	b.must(b.node.UnstageVolume(b.ctx, given))
	b.must(b.storage.Unrefuse(b.ctx, 4420))
	healed := time.Now()
	b.Logf("the other went on %s after healing", seconds(w.acked(20*time.Second, healed)))
	b.must(b.c.Detach(b.ctx, given, b.node))
	b.giveAgain(given)
	w.stop()
	b.must(b.c.Drop(b.ctx, kept, b.node))
	w.verify()
	b.must(b.c.Delete(b.ctx, kept))
}

// giveAgain brings a volume that was given up back to the node, and deletes it.
func (b *bench) giveAgain(v *cluster.Volume) {
	b.Helper()
	b.attach(v)
	b.sh("dd if=/dev/urandom of=%s bs=4096 count=1 oflag=direct status=none", v.File())
	b.drop(v)
}
