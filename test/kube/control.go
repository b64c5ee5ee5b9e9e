//go:build linux

package kube

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Addresses of a cluster. Every cluster has the same: they are in networks of its
// own. Those of the storage hosts are what the README has.
const (
	clusterLAN  = "cluster" // nodes and control plane
	storageLAN  = "storage" // nodes and storage hosts
	controlAddr = "10.76.0.1"
	// serviceAddr is where pods expect the API server: the first address of the
	// Services' range. Without kube-proxy it is simply one of the control plane's.
	serviceAddr  = "10.96.0.1"
	serviceRange = "10.96.0.0/16"
	apiServer    = "https://" + controlAddr
)

func nodeClusterAddr(i int) string { return fmt.Sprintf("10.76.0.%d", 11+i) }
func nodeStorageAddr(i int) string { return fmt.Sprintf("10.0.0.%d", 11+i) }
func storageAddr(i int) string     { return fmt.Sprintf("10.0.0.%d", 2+i) }
func podRange(i int) string        { return fmt.Sprintf("10.244.%d.0/24", i+1) }

// controlPlane is etcd, API server, controller-manager and scheduler.
type controlPlane struct {
	ns    *netns
	pki   *authority
	admin string // kubeconfig
	// patience is how long a node may be silent before it is not ready; 0 for
	// Kubernetes' own 50 s.
	patience time.Duration
}

// readyTime bounds the start of the control plane, which takes some ten seconds on
// two processors that have nothing else to do.
const readyTime = 3 * time.Minute

// startControlPlane returns when the API server serves and pods could be made.
func startControlPlane(ctx context.Context, dir string, ns *netns, bin Bin, patience time.Duration) (*controlPlane, error) {
	pkiDir := filepath.Join(dir, "pki")
	if err := os.MkdirAll(pkiDir, 0o700); err != nil {
		return nil, err
	}
	pki, err := newAuthority(pkiDir)
	if err != nil {
		return nil, err
	}
	c := &controlPlane{ns: ns, pki: pki, patience: patience}
	if err := c.certificates(); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context, string, Bin) error{c.startStore, c.startServer, c.startControllers} {
		if err := step(ctx, dir, bin); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *controlPlane) certificates() error {
	for _, cert := range []struct {
		name, user, group string
		hosts             []string
	}{
		{"apiserver", "kube-apiserver", "", []string{"localhost", "kubernetes.default.svc", "kubernetes.default", "kubernetes", "127.0.0.1", serviceAddr, controlAddr}},
		{"admin", "admin", "system:masters", nil},
		{"kubelet-client", "kube-apiserver-kubelet-client", "system:masters", nil},
		{"controllers", "system:kube-controller-manager", "", nil},
		{"scheduler", "system:kube-scheduler", "", nil},
	} {
		if err := c.pki.issue(cert.name, cert.user, cert.group, cert.hosts...); err != nil {
			return err
		}
		if _, err := c.pki.kubeconfig(cert.name, apiServer); err != nil {
			return err
		}
	}
	c.admin = c.pki.path("admin.conf")
	return c.pki.serviceAccounts()
}

func (c *controlPlane) startStore(_ context.Context, dir string, bin Bin) error {
	const client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
	_, err := c.ns.start("etcd", bin["etcd"], "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	return err
}

// auditPolicy has every request of service accounts written down, without its content:
// who asked for what, how often.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, userGroups: ["system:serviceaccounts"]}
  - {level: None}
`

// auditLog is where that is, a line of JSON each.
func (c *controlPlane) auditLog() string { return filepath.Join(c.ns.dir, "audit.log") }

func (c *controlPlane) startServer(ctx context.Context, dir string, bin Bin) error {
	policy := filepath.Join(dir, "audit.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return err
	}
	p, err := c.ns.start("kube-apiserver", bin["kube-apiserver"],
		"--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--secure-port=443", "--advertise-address="+controlAddr,
		"--tls-cert-file="+c.pki.path("apiserver.crt"), "--tls-private-key-file="+c.pki.path("apiserver.key"),
		"--client-ca-file="+c.pki.path("ca.crt"), "--kubelet-certificate-authority="+c.pki.path("ca.crt"),
		"--kubelet-client-certificate="+c.pki.path("kubelet-client.crt"), "--kubelet-client-key="+c.pki.path("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+c.pki.path("sa.pub"), "--service-account-signing-key-file="+c.pki.path("sa.key"),
		"--service-cluster-ip-range="+serviceRange, "--authorization-mode=Node,RBAC",
		"--audit-policy-file="+policy, "--audit-log-path="+c.auditLog(),
		"--enable-admission-plugins=NodeRestriction", "--allow-privileged=true")
	if err != nil {
		return err
	}
	return c.await(ctx, p, bin, "get", "--raw", "/readyz")
}

func (c *controlPlane) startControllers(ctx context.Context, _ string, bin Bin) error {
	args := []string{
		"--kubeconfig=" + c.pki.path("controllers.conf"), "--leader-elect=false", "--use-service-account-credentials",
		"--service-account-private-key-file=" + c.pki.path("sa.key"), "--root-ca-file=" + c.pki.path("ca.crt"),
	}
	if c.patience > 0 {
		args = append(args, "--node-monitor-grace-period="+c.patience.String())
	}
	p, err := c.ns.start("kube-controller-manager", bin["kube-controller-manager"], args...)
	if err != nil {
		return err
	}
	scheduler := c.pki.path("scheduler.conf")
	if _, err := c.ns.start("kube-scheduler", bin["kube-scheduler"], "--kubeconfig="+scheduler, "--leader-elect=false",
		"--authentication-kubeconfig="+scheduler, "--authorization-kubeconfig="+scheduler); err != nil {
		return err
	}
	return c.await(ctx, p, bin, "-n", "default", "get", "serviceaccount", "default")
}

// await repeats a kubectl command until it succeeds, or the process that it waits
// for has ended.
func (c *controlPlane) await(ctx context.Context, p *process, bin Bin, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		out, err := c.ns.command(ctx, bin["kubectl"], append([]string{"--kubeconfig", c.admin}, args...)...).CombinedOutput()
		if err == nil {
			return nil
		}
		if p.ended() || ctx.Err() != nil {
			return fmt.Errorf("%s is not ready: %w: %s\n%s", p.name, err, out, tail(filepath.Join(c.ns.dir, p.name+".log")))
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// tailSize is how much of a log an error has.
const tailSize = 2 << 10

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-tailSize):])
}
