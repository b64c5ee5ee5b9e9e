//go:build linux && k8s

package kube_test

import "testing"

// Claims of every kind come to a pod, are written, move to another node, and go.
func volumes(t *testing.T) {
	b := newBench(t)
	kinds := []claim{{name: "ext4"}, {name: "xfs", class: "holdfast-xfs", size: "320Mi"}, {name: "block", block: true}}
	var ws []*writer
	for _, c := range kinds {
		b.claim(c)
		ws = append(ws, b.write(c, "node1"))
	}
	for _, w := range ws {
		w.neverFailed()
		w.stop()
		w.verify("node2")
	}
	b.clean()
}
