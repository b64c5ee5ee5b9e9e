//go:build linux && k8s

package kube_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

// cutOff: a node is cut off from everything and writes to a volume of a target that
// knows nothing of fences. The volume is moved to another node, and the node is back:
// not one byte of what it had under way reaches the volume, and its pod ends.
func cutOff(t *testing.T) {
	b := newBench(t)
	c := b.static("Block")
	w := b.write(c, "node1")
	w.goesOn(time.Now().Add(10*time.Second), time.Minute) // until the node knows under what it has the volume
	node, taint := cluster.Node("node1"), "node.kubernetes.io/out-of-service"
	t.Cleanup(func() { // also after a failure: other parts need the node
		_ = heal(node)
		_, _ = cluster.Kubectl(context.WithoutCancel(b.ctx), "taint", "node", node.Name(), taint+"-")
	})
	b.must(errors.Join(node.NIC(0).Unplug(), node.NIC(1).Unplug())) // of the cluster, and of the storage
	cut := time.Now()
	b.kubectl("taint", "node", node.Name(), taint+"=nodeshutdown:NoExecute")
	last, first := w.log.Acked(), b.foreignSum()
	b.pod("second", c, "node2", fmt.Sprintf("timeout 20 ackio -path %s -writer %d -blocks %d -pause 1ms; exec sleep 3600", c.path(), writerNumber+1, blocks))
	b.ready("second")
	t.Logf("the volume is at the other node %.0f s after the cut", time.Since(cut).Seconds())
	b.must(kube.WaitFor(b.ctx, time.Minute, "the second has written", func(ctx context.Context) (bool, error) {
		out, err := cluster.Kubectl(ctx, "-n", b.ns, "exec", "second", "--", "sh", "-c", "pidof ackio || echo ended")
		return strings.Contains(out, "ended"), err
	}))
	before := b.foreignSum()
	if before == first || w.log.Acked() > last+1 {
		t.Fatalf("the second has written nothing, or the first went on: %d and %d writes", last, w.log.Acked())
	}
	b.must(heal(node))
	b.kubectl("wait", "--for=condition=Ready", "node/node1", "--timeout=180s")
	b.events("pvc/static", "VolumeWithdrawn")
	b.kubectl("taint", "node", node.Name(), taint+"-")
	b.hasNothing(node)
	if after := b.foreignSum(); after != before {
		t.Error("the node that was cut off has written to the volume")
	}
	b.drop("second")
	b.staticGone(c)
}

func heal(n *kube.Node) error { return errors.Join(n.NIC(0).Heal(), n.NIC(1).Heal()) }

// foreignSum is the checksum of what the target that was set up by hand has.
func (b *bench) foreignSum() string {
	b.Helper()
	out, err := cluster.Storages[0].Shell(b.ctx, "sync; sha256sum /data/foreign.img")
	b.must(err)
	return strings.Fields(out)[0]
}
