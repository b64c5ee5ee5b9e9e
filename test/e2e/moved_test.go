//go:build vm

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// TestTargetMoves: a target goes to another address under a writer, first while it
// is away, and then while it serves at both. And other tools see all the time whose
// the connections are.
func TestTargetMoves(t *testing.T) {
	b := newBench(t, 2*time.Minute)
	f := b.target("moves", 4421)
	b.on("truncate -s 24M /data/moves")
	f.namespace(1, b.on("losetup -f --show /data/moves"))
	v := f.static("ext4", 24, "nsid", "1", "formatIfZero", "true")
	b.attach(v)
	v.Publish = map[string]string{"nqn": f.nqn}
	w, control := b.write(v), b.controls()
	b.wantOwned()

	// The target gives the new controller the ID that the dead one has here.
	f.leave(4421)
	b.awaitState(10*time.Second, v, "connecting")
	time.Sleep(time.Second)
	f.listen(4422)
	before := time.Now()
	v.Context["addresses"] = f.addresses()
	b.must(b.node.PublishVolume(b.ctx, v, false))
	took := w.acked(30*time.Second, before)
	b.Logf("moved while it was away: I/O went on %s after the node was told", seconds(took))
	if took > swapBound+slack {
		b.Errorf("I/O went on after %s", seconds(took))
	}
	b.awaitAddress(f, v, 4422)

	began := time.Now()
	f.listen(4423)
	v.Context["addresses"] = fmt.Sprintf("%s:4423", b.storage.Addr())
	b.must(b.node.StageVolume(b.ctx, v))
	b.awaitAddress(f, v, 4423)
	f.leave(4422)
	time.Sleep(time.Second)
	b.Logf("moved while both addresses served: longest stall %s", w.calm(began, control))
	control.stop()
	b.wantOwned()
	w.stop()
	for _, step := range []func(context.Context, *cluster.Volume) error{b.node.UnpublishVolume, b.node.UnstageVolume} {
		b.must(step(b.ctx, v))
	}
	b.must(b.c.Detach(b.ctx, v, b.node))
	w.verify()
	b.nodeHoldsNothing()
	b.wantOwned()
	f.remove()
	b.on("losetup -D; e2fsck -fn /data/moves; rm /data/moves")
}

// awaitAddress waits until the one connection of v is at the port, and live.
func (b *bench) awaitAddress(f *foreign, v *cluster.Volume, port int) {
	b.Helper()
	b.within(15*time.Second, fmt.Sprintf("the connection is at port %d", port), func(context.Context) error {
		if err := b.allLive(v, 1); err != nil {
			return err
		}
		// A controller may go while it is looked at.
		at := b.sh(`for c in /sys/class/nvme/nvme*; do if [ "$(cat $c/subsysnqn 2>/dev/null)" = %s ]; then grep NVME_TRSVCID $c/uevent 2>/dev/null || true; fi; done`, f.nqn)
		if !strings.Contains(at, fmt.Sprintf("NVME_TRSVCID=%d", port)) {
			return fmt.Errorf("it is at %s", at)
		}
		return nil
	})
}

// wantOwned compares the registry of nvme-cli 3 with the controllers that there
// are: each has our name, and a number that the udev rule of libnvme understands.
func (b *bench) wantOwned() {
	b.Helper()
	b.within(10*time.Second, "the registry is true", func(context.Context) error {
		have := b.sh(`shopt -s nullglob; for c in /sys/class/nvme/nvme*; do echo ${c##*/}; done`)
		said := b.sh(`shopt -s nullglob; cd /run/nvme/registry; for c in *; do if [ "$(<$c/owner)" = holdfast ] && [ "$(<$c/seqnum)" -gt 0 ]; then echo $c; fi; done; ls -A | grep '^[.]' || true`)
		if have != said {
			return fmt.Errorf("controllers %q, entries %q", have, said)
		}
		return nil
	})
}

// TestPoolMoves: a pool of ours gets another port, and back. Nobody tells the
// node: it asks the agent. The kernel's own target gives IDs again here too.
func TestPoolMoves(t *testing.T) {
	anyKernel(t)
	b := newBench(t, 2*time.Minute)
	v := b.volume("ext4", 16)
	b.use(v)
	w := b.write(v)
	for _, port := range []int{4430, 4420} {
		b.must(b.storage.KillAgent(b.ctx))
		b.on("sed -i 's/port: 44[0-9]*/port: %d/' /data/holdfast/target.yaml", port)
		moved := time.Now()
		b.must(b.storage.StartAgent(b.ctx))
		b.awaitAddress(&foreign{nqn: v.Publish["nqn"]}, v, port)
		b.Logf("moved to port %d: I/O went on %s later", port, seconds(w.acked(30*time.Second, time.Now())+time.Since(moved)))
	}
	b.endOf([]*writer{w}, v)
}
