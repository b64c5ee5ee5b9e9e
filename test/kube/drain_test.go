//go:build linux && k8s

package kube_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

// drain: a node is emptied, shut down in order and booted again, as for maintenance.
// The pod moves with all that it has acknowledged, the shutdown is not held up, and
// the node is as new. The controllers move too: nobody waits for the node.
func drain(t *testing.T) {
	b := newBench(t)
	b.must(cluster.Apply(b.ctx, fmt.Sprintf(statefulSet, b.ns, kube.TestImage)))
	j := &journal{b: b, pod: "db-0"}
	j.follow()
	at := b.nodeOf(j.pod)
	node := cluster.Node(at)
	j.grows(time.Minute)
	began := time.Now()
	_, err := cluster.Kubectl(b.ctx, "drain", at, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=180s")
	b.must(err)
	drained := time.Since(began)
	b.must(kube.WaitFor(b.ctx, 3*time.Minute, "pod "+j.pod+" on another node", func(context.Context) (bool, error) {
		on := b.nodeOf(j.pod)
		return on != "" && on != at, nil
	}))
	j.follow()
	j.grows(time.Minute)
	t.Logf("%s is drained after %.0f s, the pod writes on %s after %.0f s", at, drained.Seconds(), b.nodeOf(j.pod), time.Since(began).Seconds())
	b.hasNothing(node)
	b.must(node.Shutdown(b.ctx))
	b.must(node.PowerOn(b.ctx))
	_, err = cluster.Kubectl(b.ctx, "uncordon", at)
	b.must(err)
	b.kubectl("wait", "--for=condition=Ready", "node/"+at, "--timeout=180s")
	b.must(cluster.Ready(b.ctx))
	b.hasNothing(node)
	j.grows(time.Minute)
	j.verify()
	b.kubectl("delete", "statefulset", "db", "--wait", "--timeout=120s")
	b.clean()
}
