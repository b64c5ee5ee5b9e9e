// Package kube makes a real Kubernetes for tests: API server, scheduler,
// controller-manager and etcd as processes of this machine, in a network namespace
// of their own, and kubelets with containerd in virtual machines, because only their
// kernel has NVMe over TCP. Storage hosts are machines, too.
//
// All programs are built from their Go modules (test/k8s/tools, test/k8s/runtime)
// and kept by content. Images are made here and put into the nodes' containerd;
// there is no registry. It is driven with kubectl and helm, as people do.
//
// There is no kube-proxy, no DNS and no admission beyond the default: Services other
// than that of the API server do not work. It holds no tests.
package kube
