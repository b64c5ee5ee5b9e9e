// Package kube asks the Kubernetes API server the few questions that the plugins have
// and that neither the kubelet nor the sidecars answer, writes events there, and for
// `holdfast retire` changes annotations and a ConfigMap.
//
// It holds no informers and no cache, and does not import client-go: the node plugin runs on every node, and client-go's machinery would be a third of
// its memory (docs/decisions, 0029). A cluster without an answer is no trouble:
// nothing that keeps a volume alive asks here.
package kube
