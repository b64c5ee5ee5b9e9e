// Package registration makes the kubelet find a CSI driver: it serves the kubelet's
// plugin registration protocol (k8s.io/kubelet/pkg/apis/pluginregistration/v1) on a
// socket in the directory that the kubelet watches, so that no sidecar is needed
// for it. A registration that the kubelet refuses is offered again, and so is one
// whose socket somebody has removed.
//
// It does not serve CSI, and does not end the process when the kubelet says no, as
// the official registrar does: the process keeps volumes alive.
package registration
