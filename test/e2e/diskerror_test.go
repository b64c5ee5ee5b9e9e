//go:build vm

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// TestDiskErrors: a block that the storage host's disk refuses is an I/O error for
// whoever touches it, after half a minute the first time, and for nobody else;
// nothing waits for ever.
func TestDiskErrors(t *testing.T) {
	anyKernel(t)
	b := newBench(t, 4*time.Minute)
	// Block 2048, of 4 KiB, is behind the writer's area.
	b.on("truncate -s 16M /data/bad; DEV=$(losetup -f --show /data/bad); printf \"0 16384 linear $DEV 0\\n16384 8 error\\n16392 16376 linear $DEV 16392\\n\" | dmsetup create bad; dmsetup mknodes bad")
	f := b.target("bad", 4470)
	f.namespace(1, "/dev/mapper/bad")
	v := f.static("", 16, "nsid", "1")
	b.attach(v)
	w := b.write(v)
	b.touchBadBlock(v, w, "the first time", 15*time.Second, 50*time.Second)
	b.touchBadBlock(v, w, "now that it is known", 0, 15*time.Second)
	w.stop()
	b.must(b.c.Drop(b.ctx, v, b.node))
	f.remove()
	b.on("dmsetup remove bad; losetup -D")
	image, err := b.storage.Get(b.ctx, "/data/bad")
	b.must(err)
	res, err := w.log.Verify(bytes.NewReader(image), w.id)
	b.must(err)
	b.Logf("%d writes acknowledged beside the bad block, %d blocks read back, %d lost, %d corrupt", w.log.Acked(), res.Blocks, res.Lost, res.Corrupt)
	if res.Lost+res.Corrupt > 0 || res.Blocks == 0 {
		t.Errorf("%v", res.Details)
	}
	b.on("rm /data/bad")
}

// touchBadBlock reads it, and expects an error no sooner and no later.
func (b *bench) touchBadBlock(v *cluster.Volume, w *writer, when string, least, atMost time.Duration) {
	b.Helper()
	began := time.Now()
	failed := make(chan string, 1)
	go func() {
		out, err := b.node.Shell(b.ctx, fmt.Sprintf("dd if=%s of=/dev/null bs=4096 skip=2048 count=1 iflag=direct 2>&1 || true", v.Target()))
		failed <- fmt.Sprint(out, err)
	}()
	if least > 0 {
		b.within(least, "the volume is called erring", func(context.Context) error {
			if h := b.health(v); h != "Erring" {
				return fmt.Errorf("its health is %q", h)
			}
			return nil
		})
	}
	out := <-failed
	took := time.Since(began)
	b.Logf("%s: an error after %s, the writer beside it stalled for %s at most", when, seconds(took), seconds(w.log.Stall(began, time.Now())))
	if !strings.Contains(out, "Input/output error") || took < least || took > atMost {
		b.Errorf("%s: after %s: %s; want an error after %s to %s", when, seconds(took), out, least, atMost)
	}
	w.acked(10*time.Second, time.Now())
	b.wantHealth(v, "Erring")
}
