//go:build linux && k8s

package kube_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

// retireHost: the second storage host goes away for good. While it is there, it cannot
// be declared gone; then its pods can end, its volumes be let go of, and others be made.
// It comes back, exports nothing, and is admitted: what was not deleted is there.
func retireHost(t *testing.T) {
	b := newBench(t)
	box := cluster.Storages[1]
	b.must(cluster.Apply(b.ctx, onBox2))
	gone, kept := claim{name: "gone", class: "on-box2"}, claim{name: "kept", class: "on-box2"}
	b.claim(gone)
	b.claim(kept)
	w, v := b.write(gone, "node1"), b.write(kept, "node2")
	b.onHost(gone, "box2")
	file := b.fileOf(gone)
	if _, err := b.holdfast("retire", "box2", "--yes", "--silent-for=1s"); err == nil || !strings.Contains(err.Error(), "is there is not gone") {
		t.Errorf("a host that is there was declared gone: %v", err)
	}
	b.must(box.PowerCut())
	b.events("pvc/gone", "VolumeWaiting")
	out, err := b.holdfast("retire", "box2", "--yes", "--silent-for=40s")
	t.Logf("retire:\n%s", out)
	b.must(err)
	if !strings.Contains(out, b.ns+"/gone") || !strings.Contains(out, b.ns+"/kept") {
		t.Errorf("it does not say what is given up")
	}
	for _, w := range []*writer{w, v} {
		b.must(kube.WaitFor(b.ctx, 2*time.Minute, "pods see errors", func(context.Context) (bool, error) { return len(w.log.Errors()) > 0, nil }))
	}
	b.drop(w.pod, v.pod)
	b.kubectl("delete", "pvc", "gone", "--timeout=120s")
	b.must(kube.WaitFor(b.ctx, 3*time.Minute, "Kubernetes has let go of what was on it", func(ctx context.Context) (bool, error) {
		out, err := cluster.Kubectl(ctx, "get", "pv,volumeattachments", "-o", `jsonpath={range .items[*]}{.kind} {.spec.claimRef.name}{"\n"}{end}`)
		return !strings.Contains(out, "gone") && !strings.Contains(out, "VolumeAttachment"), errOr(err, "there is:\n%s", out)
	}))
	elsewhere := claim{name: "elsewhere"}
	b.claim(elsewhere)
	b.pod("elsewhere", elsewhere, "", "echo here >/data/file; sync; exec sleep 3600")
	b.ready("elsewhere")
	b.onHost(elsewhere, "box1")
	b.drop("elsewhere")
	b.comesBack(v)
	// What was deleted while the host was away is somebody's data still.
	_, err = box.Shell(b.ctx, "test -s "+file+" && rm "+file)
	b.must(err)
	_, err = cluster.Kubectl(b.ctx, "delete", "storageclass", "on-box2")
	b.must(err)
	b.clean()
}

// comesBack boots the second storage host, which is told what was declared, and admits
// it.
func (b *bench) comesBack(kept *writer) {
	b.Helper()
	box := cluster.Storages[1]
	b.must(box.PowerOn(b.ctx))
	b.must(kube.WaitFor(b.ctx, 2*time.Minute, "it knows that it was declared gone", func(ctx context.Context) (bool, error) {
		return strings.Contains(box.AgentLog(ctx), "declared gone for good"), nil
	}))
	b.must(kube.WaitFor(b.ctx, time.Minute, "it exports nothing", func(ctx context.Context) (bool, error) {
		out, err := box.Shell(ctx, "ls /sys/kernel/config/nvmet/subsystems")
		return out == "", errOr(err, "it exports %s", out)
	}))
	b.pod("early", kept.claim, "node1", "exec sleep 3600")
	b.must(kube.WaitFor(b.ctx, 2*time.Minute, "its volumes are not given out, and the pod is told why", func(ctx context.Context) (bool, error) {
		out, err := cluster.Kubectl(ctx, "-n", b.ns, "get", "events", "--field-selector", "involvedObject.name=early", "-o", "jsonpath={.items[*].message}")
		return strings.Contains(out, "holdfast admit box2"), errOr(err, "it is told %s", out)
	}))
	out, err := b.holdfast("admit", "box2")
	b.Logf("admit:\n%s", out)
	b.must(err)
	b.ready("early")
	b.drop("early")
	kept.verify("node2")
}

// fileOf is where a claim's volume lies on its storage host.
func (b *bench) fileOf(c claim) string {
	b.Helper()
	_, id, ok := strings.Cut(b.handleOf(c), ":")
	if !ok {
		b.Fatalf("the handle of %s is %s", c.name, b.handleOf(c))
	}
	return "/srv/fast/volumes/" + id + ".img"
}

// holdfast runs a command where the controller runs.
func (b *bench) holdfast(args ...string) (string, error) {
	return cluster.Kubectl(b.ctx, append([]string{"-n", kube.Namespace, "exec", "deploy/holdfast-controller", "--", "holdfast"}, args...)...)
}

const onBox2 = `apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: on-box2}
provisioner: csi.holdfast.io
parameters: {host: box2}
`
