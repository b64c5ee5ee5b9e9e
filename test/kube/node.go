//go:build linux

package kube

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/test/vm"
)

// Node is a machine with containerd and a kubelet.
type Node struct {
	*vm.Machine
	cluster *Cluster
	number  int
	kubelet *vm.Process
}

const (
	nodeMemory = 3072 // MiB
	nodeDisk   = 16   // GiB, sparse
	sandbox    = "registry.k8s.io/pause:3.10.1"
)

// programs of a node, and where they lie there.
func nodeFiles(bin Bin) []vm.File {
	var files []vm.File
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "kubelet"} {
		files = append(files, vm.File{Host: bin[name], Guest: "/usr/local/bin/" + name})
	}
	for _, name := range []string{"bridge", "loopback", "host-local"} {
		files = append(files, vm.File{Host: bin[name], Guest: "/opt/cni/bin/" + name})
	}
	return files
}

// containerdConfig is in the format of containerd 2. Everything that must survive a
// power cut is on the disk at /data.
const containerdConfig = `version = 3
root = "/data/containerd"
state = "/run/containerd"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "` + sandbox + `"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/opt/cni/bin"]
  conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
`

const cniConfig = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"hairpinMode":true,
"ipam":{"type":"host-local","dataDir":"/run/cni","ranges":[[{"subnet":%q}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /etc/kubernetes/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: /etc/kubernetes/kubelet.crt
tlsPrivateKeyFile: /etc/kubernetes/kubelet.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failSwapOn: false
makeIPTablesUtilChains: false
resolvConf: ""
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
# What is slow under emulation is not sick.
runtimeRequestTimeout: 10m
volumeStatsAggPeriod: 10s
nodeStatusUpdateFrequency: 10s
`

// nodeDirs puts on the disk what a machine keeps when its power is cut. Its root is
// in memory.
const nodeDirs = `
for d in lib/kubelet lib/holdfast log/pods log/containers; do
  mkdir -p /data/$d /var/$d
  mount --bind /data/$d /var/$d
done
mkdir -p /etc/cni/net.d /run/containerd
`

// setUp makes a machine that has just booted a node: the configuration, the routes,
// containerd, and the kubelet when it is there.
func (n *Node) setUp(ctx context.Context) error {
	for path, text := range map[string]string{
		"/etc/containerd/config.toml": containerdConfig, "/etc/cni/net.d/10-pods.conflist": fmt.Sprintf(cniConfig, podRange(n.number)),
		"/etc/kubernetes/kubelet.yaml": kubeletConfig,
		"/etc/kubernetes/kubelet.conf": kubeconfig(apiServer, "/etc/kubernetes/ca.crt", "/etc/kubernetes/kubelet.crt", "/etc/kubernetes/kubelet.key"),
	} {
		if err := n.PutBytes(ctx, []byte(text), path, 0o600); err != nil {
			return err
		}
	}
	pki := n.cluster.control.pki
	for from, to := range map[string]string{"ca.crt": "ca.crt", n.Name() + ".crt": "kubelet.crt", n.Name() + ".key": "kubelet.key"} {
		if err := n.Put(ctx, pki.path(from), "/etc/kubernetes/"+to, 0o600); err != nil {
			return err
		}
	}
	if _, err := n.Shell(ctx, nodeDirs+n.routes()); err != nil {
		return fmt.Errorf("node %s: %w", n.Name(), err)
	}
	if err := n.startContainerd(ctx); err != nil {
		return err
	}
	return n.StartKubelet(ctx)
}

// routes lead to the API server's address as pods have it, and to the pods of other
// nodes.
func (n *Node) routes() string {
	lines := []string{
		"sysctl -qw net.ipv4.ip_forward=1",
		"ip route replace " + serviceRange + " via " + controlAddr,
	}
	for _, other := range n.cluster.Nodes {
		if other != n {
			lines = append(lines, fmt.Sprintf("ip route replace %s via %s", podRange(other.number), nodeClusterAddr(other.number)))
		}
	}
	return strings.Join(lines, "\n")
}

func (n *Node) startContainerd(ctx context.Context) error {
	if _, err := n.Start(ctx, "containerd", "containerd", "--config", "/etc/containerd/config.toml"); err != nil {
		return err
	}
	const wait = `for i in $(seq 300); do ctr version >/dev/null 2>&1 && exit 0; sleep 0.2; done; tail -n 20 /var/log/containerd.log; exit 1`
	if out, err := n.Shell(ctx, wait); err != nil {
		return fmt.Errorf("containerd of %s does not answer: %w\n%s", n.Name(), err, out)
	}
	return nil
}

// StartKubelet starts the kubelet. One that runs has to be ended before.
func (n *Node) StartKubelet(ctx context.Context) (err error) {
	n.kubelet, err = n.Start(ctx, "kubelet", "kubelet", "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubelet.conf",
		"--hostname-override="+n.Name(), "--node-ip="+nodeClusterAddr(n.number))
	return err
}

// KillKubelet ends the kubelet with SIGKILL. Containers go on.
func (n *Node) KillKubelet(ctx context.Context) error { return n.kubelet.Kill(ctx) }

// load puts image archives into containerd.
func (n *Node) load(ctx context.Context, archives ...string) error {
	for _, a := range archives {
		to := "/data/" + filepath.Base(a)
		if err := n.Put(ctx, a, to, 0o600); err != nil {
			return err
		}
		if out, err := n.Shell(ctx, "ctr -n k8s.io images import --local "+to+" && rm "+to); err != nil {
			return fmt.Errorf("image %s on %s: %w\n%s", filepath.Base(a), n.Name(), err, out)
		}
	}
	return nil
}

// PowerOn boots a node after a power cut, and starts what its service manager would.
func (n *Node) PowerOn(ctx context.Context) error {
	if err := n.Boot(ctx); err != nil {
		return err
	}
	return n.setUp(ctx)
}
