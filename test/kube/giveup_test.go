//go:build linux && k8s

package kube_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

// giveUp: a storage host stays away, and somebody who has no way to the node gives up
// one of two volumes. Its pod sees errors and can end; the other waits on.
func giveUp(t *testing.T) {
	b := newBench(t)
	lost, kept := claim{name: "lost"}, claim{name: "kept"}
	b.claim(lost)
	b.claim(kept)
	ws := []*writer{b.write(lost, "node1"), b.write(kept, "node1")}
	box := cluster.Storages[0]
	b.must(box.PowerCut())
	b.events("pvc/lost", "VolumeWaiting")
	pv := b.kubectl("get", "pvc", "lost", "-o", "jsonpath={.spec.volumeName}")
	handle := b.handleOf(lost)
	time.Sleep(30 * time.Second) // so that the node has looked before
	_, err := cluster.Kubectl(b.ctx, "annotate", "pv", pv, "csi.holdfast.io/abandon="+handle)
	b.must(err)
	b.must(kube.WaitFor(b.ctx, 2*time.Minute, "the pod sees errors", func(context.Context) (bool, error) { return len(ws[0].log.Errors()) > 0, nil }))
	b.events("pvc/lost", "VolumeFailing")
	if errs := ws[1].log.Errors(); len(errs) > 0 {
		t.Errorf("the other volume: %v", errs)
	}
	b.drop(ws[0].pod) // it ends, with the storage host away
	plugin, err := cluster.Kubectl(b.ctx, "-n", kube.Namespace, "get", "pods", "-l", "app.kubernetes.io/component=node", "--field-selector", "spec.nodeName=node1", "-o", "name")
	b.must(err)
	b.must(kube.WaitFor(b.ctx, time.Minute, "the volume has left the node, with the storage host away", func(ctx context.Context) (bool, error) {
		out, err := cluster.Kubectl(ctx, "-n", kube.Namespace, "exec", strings.TrimSpace(plugin), "--", "holdfast", "volumes", "--json")
		return !strings.Contains(out, handle) && strings.Contains(out, b.ns+"/kept"), errOr(err, "there is %s", out)
	}))
	b.must(box.PowerOn(b.ctx))
	ws[1].goesOn(time.Now(), goesOnWithin)
	ws[1].neverFailed()
	ws[1].stop()
	b.clean()
}
