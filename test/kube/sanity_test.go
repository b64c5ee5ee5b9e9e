//go:build linux && k8s

package kube_test

import (
	"regexp"
	"testing"

	"github.com/holdfast-csi/holdfast/test/kube"
)

// sanityArgs: nothing but the two sockets, and places that node and plugin both see.
const sanityArgs = " -csi.mountdir=/var/lib/kubelet/sanity/mount -csi.stagingdir=/var/lib/kubelet/sanity/staging -csi.testvolumesize=67108864 -ginkgo.no-color"

var sanityResult = regexp.MustCompile(`(\d+) Passed \| (\d+) Failed \| \d+ Pending \| (\d+) Skipped`)

// sanity is the CSI project's own suite against the driver as it is installed: the
// controller's socket of a pod and the node plugin's, on one node.
func sanity(t *testing.T) {
	b := newBench(t)
	program, err := cluster.Program(b.ctx, "csi-sanity")
	b.must(err)
	node := cluster.Node(b.nodeOfController())
	b.must(node.Put(b.ctx, program, "/usr/local/bin/csi-sanity", 0o755))
	uid, err := cluster.Kubectl(b.ctx, "-n", kube.Namespace, "get", "pods", "-l", "app.kubernetes.io/component=controller",
		"--field-selector", "spec.nodeName="+node.Name(), "-o", "jsonpath={.items[0].metadata.uid}")
	b.must(err)
	out, err := node.Shell(b.ctx, "mkdir -p /var/lib/kubelet/sanity && csi-sanity"+
		" -csi.endpoint=unix:///var/lib/kubelet/plugins/csi.holdfast.io/csi.sock"+
		" -csi.controllerendpoint=unix:///var/lib/kubelet/pods/"+uid+"/volumes/kubernetes.io~empty-dir/csi/csi.sock"+sanityArgs)
	m := sanityResult.FindStringSubmatch(out)
	if err != nil || m == nil || m[2] != "0" {
		t.Fatalf("csi-sanity: %v\n%s", err, out)
	}
	t.Logf("csi-sanity: %s specs passed, %s ask for what is not served yet", m[1], m[3])
	b.clean()
}

// nodeOfController is a node with a pod of the controller.
func (b *bench) nodeOfController() string {
	b.Helper()
	out, err := cluster.Kubectl(b.ctx, "-n", kube.Namespace, "get", "pods", "-l", "app.kubernetes.io/component=controller", "-o", "jsonpath={.items[0].spec.nodeName}")
	b.must(err)
	return out
}
