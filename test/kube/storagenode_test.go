//go:build linux && k8s

package kube_test

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

// storageNode: a node of the cluster becomes a storage host by a label and the chart's
// DaemonSet, and serves a pod on the other node; its agent's pod is deleted meanwhile.
func storageNode(t *testing.T) {
	b := newBench(t)
	node := cluster.Nodes[1]
	_, err := node.Shell(b.ctx, "mkdir -p /data/pool")
	b.must(err)
	join, err := cluster.Storages[0].Get(b.ctx, "/root/join.yaml")
	b.must(err)
	b.must(cluster.Apply(b.ctx, "apiVersion: v1\nkind: Secret\nmetadata: {name: holdfast-invitation, namespace: "+kube.Namespace+"}\nstringData:\n  join.yaml: |\n    "+
		strings.ReplaceAll(string(join), "\n", "\n    ")+"\n"))
	_, err = cluster.Kubectl(b.ctx, "label", "node", node.Name(), "holdfast.io/storage=true")
	b.must(err)
	values, err := cluster.Helm(b.ctx, "get", "values", "holdfast", "-n", kube.Namespace, "-o", "yaml")
	b.must(err)
	const host = "  name: node2\n"
	with := strings.Replace(values, "hosts:\n", "hosts:\n- address: "+node.Addr("cluster").String()+":9700\n"+host, 1)
	b.must(cluster.UpgradeValues(b.ctx, with+"target: {enabled: true, pools: [{name: here, path: /data/pool}]}\n"))
	_, err = cluster.Kubectl(b.ctx, "-n", kube.Namespace, "rollout", "status", "daemonset/holdfast-target", "--timeout=180s")
	b.must(err)
	b.must(cluster.Apply(b.ctx, "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: on-node2}\nprovisioner: csi.holdfast.io\nparameters: {host: node2}\n"))
	here := claim{name: "here", class: "on-node2"}
	b.claim(here)
	w := b.write(here, "node1")
	b.onHost(here, "node2")
	_, err = cluster.Kubectl(b.ctx, "-n", kube.Namespace, "delete", "pod", "-l", "app.kubernetes.io/component=target", "--timeout=120s")
	b.must(err)
	t.Logf("the agent's pod is deleted: the next write after %s", w.goesOn(time.Now(), goesOnWithin).Round(10*time.Millisecond))
	_, err = cluster.Kubectl(b.ctx, "-n", kube.Namespace, "rollout", "status", "daemonset/holdfast-target", "--timeout=180s")
	b.must(err)
	w.neverFailed()
	w.stop()
	w.verify("node2") // over the node's own network
	b.clean()
	// As it was.
	_, err = cluster.Kubectl(b.ctx, "delete", "storageclass", "on-node2")
	b.must(err)
	b.must(cluster.UpgradeValues(b.ctx, values+"target: {enabled: false}\n"))
	_, err = cluster.Kubectl(b.ctx, "label", "node", node.Name(), "holdfast.io/storage-")
	b.must(err)
}
