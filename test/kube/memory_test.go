//go:build linux && k8s

package kube_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

// usage is what the kubelet says of a container's memory, in bytes.
type usage struct {
	WorkingSetBytes int64 // what limits and `kubectl top` count
	RSSBytes        int64 `json:"rssBytes"` // of it, the anonymous
}

// memory logs what Holdfast's containers hold on the nodes, and returns the working set
// of the largest node plugin.
func (b *bench) memory() (largest int64) {
	b.Helper()
	for _, n := range cluster.Nodes {
		var summary struct {
			Pods []struct {
				PodRef     struct{ Name, Namespace string }
				Containers []struct {
					Name   string
					Memory usage
				}
			}
		}
		out, err := cluster.Kubectl(b.ctx, "get", "--raw", "/api/v1/nodes/"+n.Name()+"/proxy/stats/summary")
		b.must(err)
		b.must(json.Unmarshal([]byte(out), &summary))
		for _, p := range summary.Pods {
			if p.PodRef.Namespace != kube.Namespace {
				continue
			}
			for _, c := range p.Containers {
				b.Logf("%s: %s %s: %.1f MiB (%.1f anonymous)", n.Name(), p.PodRef.Name, c.Name, mib(c.Memory.WorkingSetBytes), mib(c.Memory.RSSBytes))
				if c.Name == "holdfast" && strings.HasPrefix(p.PodRef.Name, "holdfast-node") {
					largest = max(largest, c.Memory.WorkingSetBytes)
				}
			}
		}
	}
	return largest
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

const (
	tenVolumes = 10
	// mostMemory is what the node role may take with ten volumes, in bytes.
	mostMemory = 20 << 20
	// statsTime is more than the kubelet takes to look again.
	statsTime = 20 * time.Second
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
	time.Sleep(statsTime)
	if size := b.memory(); size == 0 || size > mostMemory {
		t.Errorf("the node plugin holds %.1f MiB with %d volumes, want at most %.1f", mib(size), tenVolumes, mib(mostMemory))
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
