//go:build vm

package e2e

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// slack is what emulation adds to the kernel's own times, on processors that the
// machines of two kernels share.
const slack = 2500 * time.Millisecond

// Bounds after healing, of the kernel itself. A refused attempt is over at
// once, so the next one comes a delay later. A silent one sends its last SYN
// after 1 s and gives up after 3 s.
func refusedBound(delay time.Duration) time.Duration { return delay + slack }
func silentBound(delay time.Duration) time.Duration  { return 2*time.Second + delay + slack }

// TestResumeAfterOutage: I/O goes on by itself no later than the bounds above, at
// delay 1 for the default class, whose own delay is 5, and at the
// class's delay if it is not eager.
func TestResumeAfterOutage(t *testing.T) {
	for _, c := range []struct {
		name   string
		params []string
		delay  time.Duration
	}{
		{"default class", nil, time.Second},
		{"not eager, delay 5", []string{"eagerReconnect", "false", "reconnectDelay", "5"}, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, 4*time.Minute)
			fs, block := b.volume("ext4", 24, c.params...), b.volume("", 16, c.params...)
			b.use(fs, block)
			ws := []*writer{b.write(fs), b.write(block)}
			b.survive(ws, "refused for 10 s", refusedBound(c.delay), 10*time.Second,
				func() { b.must(b.storage.Refuse(b.ctx, 4420)) }, func() { b.must(b.storage.Unrefuse(b.ctx, 4420)) })
			b.survive(ws, "silent for 12 s", silentBound(c.delay), 12*time.Second,
				func() { b.storage.NIC(0).Drop() }, func() { b.must(b.storage.NIC(0).Heal()) })
			b.endOf(ws, fs, block)
		})
	}
}

// survive lets an outage happen under the writers and measures the resumption.
func (b *bench) survive(ws []*writer, what string, bound, lasts time.Duration, inject, heal func()) {
	b.Helper()
	inject()
	time.Sleep(lasts)
	heal()
	healed := time.Now()
	for _, w := range ws {
		took := w.acked(time.Minute, healed)
		b.Logf("%s: %s went on %s after healing (bound %s)", what, kindOf(w.v), seconds(took), seconds(bound))
		if took > bound {
			b.Errorf("%s: %s went on %s after healing, the bound is %s", what, kindOf(w.v), seconds(took), seconds(bound))
		}
	}
	time.Sleep(time.Second) // some writes between outages
}

// endOf stops writers, takes the volumes away, checks every byte and deletes.
func (b *bench) endOf(ws []*writer, vs ...*cluster.Volume) {
	b.Helper()
	for _, w := range ws {
		w.stop()
	}
	for _, v := range vs {
		b.must(b.c.Drop(b.ctx, v, b.node))
	}
	for _, w := range ws {
		w.verify()
	}
	for _, v := range vs {
		b.must(b.c.Delete(b.ctx, v))
	}
}

// TestStoragePowerCut cuts the storage host's power under load, twice, and
// kills the agent once in between. The disk loses what was not flushed.
func TestStoragePowerCut(t *testing.T) {
	b := newBench(t, 5*time.Minute)
	fs, block := b.volume("ext4", 24), b.volume("", 16)
	b.use(fs, block)
	ws := []*writer{b.write(fs), b.write(block)}
	for range 2 {
		b.must(b.storage.PowerCut())
		b.must(b.storage.PowerOn(b.ctx))
		on := time.Now()
		for _, w := range ws {
			b.Logf("%s went on %s after the storage host's agent was started", kindOf(w.v), seconds(w.acked(time.Minute, on)))
		}
		before, control := b.sessions(), b.controls()
		killed := time.Now()
		b.must(b.storage.KillAgent(b.ctx))
		b.must(b.storage.StartAgent(b.ctx))
		time.Sleep(3 * time.Second)
		for _, w := range ws {
			b.Logf("agent restarted: longest stall of %s: %s", kindOf(w.v), w.calm(killed, control))
		}
		control.stop()
		if after := b.sessions(); after != before {
			t.Errorf("a restart of the agent alone changed the connections:\nbefore\n%safter\n%s", before, after)
		}
	}
	b.endOf(ws, fs, block)
}

// TestUnstageDuringOutage: while data waits, unstage answers before its
// deadline, never OK, and a repeat does not take "not mounted" for "written".
// When the storage host is back it ends, and the data is there.
func TestUnstageDuringOutage(t *testing.T) {
	b := newBench(t, 4*time.Minute)
	v := b.volume("ext4", 32)
	b.use(v)
	b.sh("head -c 4194304 /dev/urandom > /run/data && cp /run/data %s", v.File())
	b.storage.NIC(0).Drop()
	b.awaitState(20*time.Second, v, "connecting")
	unpublishing, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	b.must(b.node.UnpublishVolume(unpublishing, v))
	for range 3 {
		ctx, cancel := context.WithTimeout(b.ctx, 8*time.Second)
		began := time.Now()
		err := b.node.UnstageVolume(ctx, v)
		cancel()
		b.wantCode(err, codes.DeadlineExceeded)
		b.Logf("unstage in the outage answered after %s: %v", seconds(time.Since(began)), err)
		health, err := b.node.CSI.NodeGetVolumeHealth(b.ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: v.ID})
		b.must(err)
		if s := health.GetVolumeHealth().GetHealthStatuses(); len(s) != 1 || s[0].GetReason() != "Reconnecting" {
			t.Errorf("health in the outage: %v", s)
		}
	}
	b.must(b.storage.NIC(0).Heal())
	took := b.within(30*time.Second, "unstage after healing", func(ctx context.Context) error { return b.node.UnstageVolume(ctx, v) })
	b.Logf("unstage ended %s after healing", seconds(took))
	b.must(b.c.Detach(b.ctx, v, b.node))
	b.attach(v)
	b.sh("cmp /run/data %s", v.File())
	b.drop(v)
}

// TestNodePowerCut: a node that lost its power stages its volumes again.
func TestNodePowerCut(t *testing.T) {
	b := newBench(t, 4*time.Minute)
	v := b.volume("ext4", 24)
	b.use(v)
	b.sh("echo kept > %s && sync -f %s", v.File(), v.File())
	b.must(b.node.PowerCut())
	b.must(b.node.PowerOn(b.ctx))
	b.must(b.node.StageVolume(b.ctx, v))
	b.must(b.node.PublishVolume(b.ctx, v, false))
	if got := b.sh("cat %s", v.File()); got != "kept" {
		t.Errorf("after the node's boot the file holds %q", got)
	}
	b.drop(v)
}
