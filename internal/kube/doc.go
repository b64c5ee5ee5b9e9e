// Package kube asks the Kubernetes API server the few questions that the node plugin
// has and that the kubelet does not answer, and writes events there.
//
// It holds no informers and no cache, changes no object, and does not import client-go:
// the node plugin runs on every node, and client-go's machinery would be a third of
// its memory (docs/decisions, 0029). A cluster without an answer is no trouble:
// nothing that keeps a volume alive asks here.
package kube
