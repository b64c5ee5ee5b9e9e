//go:build linux

package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-csi/holdfast/test/vm"
)

// Config says what a cluster consists of.
type Config struct {
	Name     string
	Kernel   string // series; default "6.12"
	Nodes    int    // default 2
	Storages int    // default 1
	// Patience is how long a node may be silent before it is not ready; default
	// Kubernetes' own 50 s.
	Patience time.Duration
	Log      func(format string, args ...any)
}

// Cluster is a running one, without Holdfast in it but for its storage hosts.
type Cluster struct {
	Nodes    []*Node
	Storages []*Storage

	lab     *vm.Lab
	ns      *netns
	control *controlPlane
	bin     Bin
	images  *images
	log     func(format string, args ...any)
	dir     string
}

func (c *Config) defaults() {
	if c.Name == "" {
		c.Name = "kube"
	}
	if c.Nodes == 0 {
		c.Nodes = 2
	}
	if c.Storages == 0 {
		c.Storages = 1
	}
	if c.Log == nil {
		c.Log = func(string, ...any) {}
	}
}

// Start builds what is missing and returns when the nodes are Ready. It needs root.
func Start(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	cfg.defaults()
	if os.Geteuid() != 0 {
		return nil, errors.New("a cluster needs root: it makes a network namespace and cards in it")
	}
	c := &Cluster{log: cfg.Log}
	if c.bin, err = build(ctx, clusterParts, cfg.Log); err != nil {
		return nil, err
	}
	if c.images, err = makeImages(ctx, c.bin); err != nil {
		return nil, err
	}
	if c.lab, err = vm.NewLab(ctx, vm.LabConfig{Name: cfg.Name, Kernel: cfg.Kernel, Log: cfg.Log, Tools: []string{"setpriv"}}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	return c, c.start(ctx, cfg)
}

func (c *Cluster) start(ctx context.Context, cfg Config) (err error) {
	began := time.Now()
	c.dir = filepath.Join(c.lab.Dir(), "control")
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	if err := c.network(ctx, cfg.Nodes); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		c.control, err = startControlPlane(gctx, c.dir, c.ns, c.bin, cfg.Patience)
		return err
	})
	g.Go(func() error { return c.boot(gctx, cfg) })
	if err := g.Wait(); err != nil {
		return err
	}
	if err := c.nodeCertificates(); err != nil {
		return err
	}
	g, gctx = errgroup.WithContext(ctx)
	for _, s := range c.Storages {
		g.Go(func() error { return s.prepare(gctx) })
	}
	for _, n := range c.Nodes {
		g.Go(func() error { return errors.Join(n.setUp(gctx), n.load(gctx, c.images.archives...)) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "wait", "--for=condition=Ready", "node", "--all", "--timeout=180s"); err != nil {
		return err
	}
	c.log("cluster: %d nodes are ready after %.0f s", len(c.Nodes), time.Since(began).Seconds())
	return nil
}

// network makes the namespace of the control plane and its card among the nodes.
func (c *Cluster) network(ctx context.Context, nodes int) (err error) {
	if c.ns, err = newNetns(ctx, c.dir); err != nil {
		return err
	}
	if err := c.lab.Tap(clusterLAN, c.ns.name, "nodes"); err != nil {
		return err
	}
	words := []string{"addr add " + controlAddr + "/24 dev nodes", "addr add " + serviceAddr + "/32 dev lo", "link set nodes up"}
	for i := range nodes {
		words = append(words, fmt.Sprintf("route add %s via %s", podRange(i), nodeClusterAddr(i)))
	}
	for _, w := range words {
		if err := c.ns.ip(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) boot(ctx context.Context, cfg Config) error {
	var all []*vm.Machine
	for i := range cfg.Storages {
		m, err := c.lab.Add(vm.MachineConfig{
			Name: fmt.Sprintf("box%d", i+1), DiskGiB: 8, Files: []vm.File{{Host: c.images.pkg, Guest: "/root/holdfast_test_amd64.deb", Mode: 0o644}},
			LANs: []vm.LANAddress{{LAN: storageLAN, Addr: storageAddr(i) + "/24"}},
		})
		if err != nil {
			return err
		}
		c.Storages = append(c.Storages, &Storage{Machine: m, cluster: c, number: i})
		all = append(all, m)
	}
	for i := range cfg.Nodes {
		m, err := c.lab.Add(vm.MachineConfig{
			Name: fmt.Sprintf("node%d", i+1), DiskGiB: nodeDisk, DiskFS: "ext4", MemoryMiB: nodeMemory, Files: nodeFiles(c.bin),
			LANs: []vm.LANAddress{{LAN: clusterLAN, Addr: nodeClusterAddr(i) + "/24"}, {LAN: storageLAN, Addr: nodeStorageAddr(i) + "/24"}},
		})
		if err != nil {
			return err
		}
		c.Nodes = append(c.Nodes, &Node{Machine: m, cluster: c, number: i})
		all = append(all, m)
	}
	return c.lab.Boot(ctx, all...)
}

func (c *Cluster) nodeCertificates() error {
	for _, n := range c.Nodes {
		if err := c.control.pki.issue(n.Name(), "system:node:"+n.Name(), "system:nodes", n.Name(), nodeClusterAddr(n.number)); err != nil {
			return err
		}
	}
	return nil
}

// Node returns the node of a name, or nil.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.Nodes {
		if n.Name() == name {
			return n
		}
	}
	return nil
}

// Root is the top of the source tree.
func (c *Cluster) Root() string { return root() }

// Close ends everything and leaves this machine as it was.
func (c *Cluster) Close() error {
	var errs []error
	if c.ns != nil {
		errs = append(errs, c.ns.close())
	}
	return errors.Join(append(errs, c.lab.Close())...)
}
