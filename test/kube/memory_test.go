//go:build linux && k8s

package kube_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/test/kube"
)

// rss prints, for each process of Holdfast on a node, its resident memory in KiB and
// what it runs.
const rss = `for p in /proc/[0-9]*; do
  [ "$(readlink $p/exe)" = /usr/local/bin/holdfast ] || continue
  echo "$(sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\) kB/\1/p' $p/status) KiB holdfast $(tr '\0' ' ' <$p/cmdline | cut -d' ' -f2), $(ls /run/holdfast/node/boot-*/ 2>/dev/null | grep -c json) volumes on the node"
done`

// memory logs what Holdfast's processes hold on the nodes, and returns what the
// largest node plugin does, in KiB.
func (b *bench) memory() (largest int) {
	b.Helper()
	for _, n := range cluster.Nodes {
		out, err := n.Shell(b.ctx, rss)
		b.must(err)
		for line := range strings.Lines(out) {
			b.Logf("%s: %s", n.Name(), strings.TrimSpace(line))
			kib, rest, _ := strings.Cut(line, " ")
			if size, err := strconv.Atoi(kib); err == nil && strings.HasPrefix(rest, "KiB holdfast node") {
				largest = max(largest, size)
			}
		}
	}
	return largest
}

const (
	tenVolumes = 10
	// mostMemory is what the node role may take with ten volumes, in KiB.
	mostMemory = 20 << 10
)

// ten volumes in one pod, of a class with options of mkfs: the plugin is as small as it
// is said to be.
func ten(t *testing.T) {
	b := newBench(t)
	b.must(cluster.Apply(b.ctx, `apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: tuned}
provisioner: csi.holdfast.io
parameters: {mkfsOptions: "-m 0 -i 65536 -O large_dir"}
`))
	var mounts, volumes []string
	for i := range tenVolumes {
		c := claim{name: fmt.Sprintf("v%d", i), class: "tuned", size: "32Mi"}
		b.claim(c)
		mounts = append(mounts, fmt.Sprintf("{name: %s, mountPath: /data/%s}", c.name, c.name))
		volumes = append(volumes, fmt.Sprintf("{name: %s, persistentVolumeClaim: {claimName: %s}}", c.name, c.name))
	}
	b.must(cluster.Apply(b.ctx, fmt.Sprintf(podOfMany, b.ns, kube.TestImage, strings.Join(mounts, ", "), strings.Join(volumes, ", "))))
	b.ready("many")
	if size := b.memory(); size == 0 || size > mostMemory {
		t.Errorf("the node plugin holds %d KiB with %d volumes, want at most %d", size, tenVolumes, mostMemory)
	}
	b.drop("many")
	b.clean()
	_, err := cluster.Kubectl(b.ctx, "delete", "storageclass", "tuned")
	b.must(err)
}

const podOfMany = `apiVersion: v1
kind: Pod
metadata: {name: many, namespace: %s}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: {kubernetes.io/hostname: node1}
  containers:
    - name: main
      image: %s
      imagePullPolicy: Never
      command: [sh, -ec, "for d in /data/*; do echo here >$d/file; done; sync; exec sleep 3600"]
      volumeMounts: [%s]
  volumes: [%s]
`
