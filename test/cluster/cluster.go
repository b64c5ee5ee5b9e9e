package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-csi/holdfast/test/vm"
)

// Config says what a cluster consists of.
type Config struct {
	Name     string
	Kernel   string // series; default "6.12"
	Nodes    int    // default 1
	Storages int    // default 1
	DiskFS   string // of the storage hosts' disks; default "xfs"
	DiskGiB  int    // default 8
	// Volatile makes the storage hosts' disks lose what was not flushed when
	// the power is cut.
	Volatile bool
	Tools    []string
	Connect  string // how nodes connect; default "fabrics"
	Log      func(format string, args ...any)
	// NodeArgs are passed to the kernel of the nodes.
	NodeArgs []string
	// NodeFlags are passed to the node plugin.
	NodeFlags []string
}

// Cluster is a running one.
type Cluster struct {
	Lab      *vm.Lab
	Storages []*Storage
	Nodes    []*Node

	dir        string
	binary     string
	log        func(format string, args ...any)
	controller *exec.Cmd
	conn       *grpc.ClientConn
	CSI        csi.ControllerClient
	clusterID  string
	connect    string
	nodeFlags  []string
}

// Storage is a storage host.
type Storage struct {
	*vm.Machine
	Name  string
	agent *vm.Process
}

// Ports and paths inside the machines.
const (
	agentPort = 9700
	nvmePort  = 4420
	hostsFile = "/etc/holdfast/hosts.yaml"
	tlsDir    = "/etc/holdfast/tls"
	binPath   = "/usr/local/bin/holdfast"
	ackPath   = "/usr/local/bin/ackio"
	poolDir   = "/data/pool"
)

// Root is the top of the source tree.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Build compiles a command of this module, static, and returns its path. The
// file is replaced whole: another cluster may be reading it.
func Build(ctx context.Context, pkg string) (string, error) {
	out := filepath.Join(Root(), "build", "bin", filepath.Base(pkg))
	made := fmt.Sprintf("%s.%d", out, os.Getpid())
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "grpcnotrace", "-trimpath", "-ldflags", "-s -w -X github.com/holdfast-csi/holdfast/internal/app.Version=test", "-o", made, "./"+pkg)
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, text)
	}
	return out, os.Rename(made, out)
}

func (c *Config) defaults() {
	c.Nodes, c.Storages, c.DiskGiB = orOne(c.Nodes), orOne(c.Storages), max(c.DiskGiB, 8)
	for p, d := range map[*string]string{&c.Name: "cluster", &c.Kernel: "6.12", &c.DiskFS: "xfs", &c.Connect: "fabrics"} {
		if *p == "" {
			*p = d
		}
	}
	if c.Log == nil {
		c.Log = func(string, ...any) {}
	}
}

func orOne(n int) int { return max(n, 1) }

// Start builds the binaries, boots the machines and starts every role.
func Start(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	cfg.defaults()
	binary, err := Build(ctx, "cmd/holdfast")
	if err != nil {
		return nil, err
	}
	ackio, err := Build(ctx, "test/cmd/ackio")
	if err != nil {
		return nil, err
	}
	lab, err := vm.NewLab(ctx, vm.LabConfig{
		Name: cfg.Name, Kernel: cfg.Kernel, Log: cfg.Log, Tools: cfg.Tools,
		Files: []vm.File{{Host: binary, Guest: binPath}, {Host: ackio, Guest: ackPath}},
	})
	if err != nil {
		return nil, err
	}
	c := &Cluster{Lab: lab, binary: binary, log: cfg.Log, dir: lab.Dir(), clusterID: "test-" + cfg.Name, connect: cfg.Connect, nodeFlags: cfg.NodeFlags}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if err := c.boot(ctx, cfg); err != nil {
		return nil, err
	}
	for _, s := range c.Storages {
		if err := c.setUp(ctx, s); err != nil {
			return nil, err
		}
	}
	if err := c.StartController(ctx); err != nil {
		return nil, err
	}
	for _, n := range c.Nodes {
		if err := c.join(ctx, n); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Cluster) boot(ctx context.Context, cfg Config) error {
	var all []*vm.Machine
	for i := range cfg.Storages {
		name := fmt.Sprintf("storage%d", i+1)
		m, err := c.Lab.Add(vm.MachineConfig{Name: name, DiskGiB: cfg.DiskGiB, DiskFS: cfg.DiskFS, VolatileDisk: cfg.Volatile, Forward: []int{agentPort}})
		if err != nil {
			return err
		}
		c.Storages = append(c.Storages, &Storage{Machine: m, Name: name})
		all = append(all, m)
	}
	for i := range cfg.Nodes {
		m, err := c.Lab.Add(vm.MachineConfig{Name: fmt.Sprintf("node%d", i+1), DiskGiB: 1, DiskFS: "ext4", KernelArgs: cfg.NodeArgs, MemoryMiB: 1536})
		if err != nil {
			return err
		}
		c.Nodes = append(c.Nodes, &Node{Machine: m, cluster: c})
		all = append(all, m)
	}
	return c.Lab.Boot(ctx, all...)
}

// setUp makes a storage host with the product's own command and starts it. The
// configuration lies on the data disk, because the root is gone with the power.
func (c *Cluster) setUp(ctx context.Context, s *Storage) error {
	out, err := s.Shell(ctx, fmt.Sprintf("mkdir -p %[1]s && %[2]s target init --dir /data/holdfast --host %[3]s --address %[4]s --pool fast=%[1]s --cluster-id %[5]s && sed -i 's#^stateDir:.*#stateDir: /data/holdfast/state#' /data/holdfast/target.yaml && mkdir -p /data/holdfast/state && cp -a /var/lib/holdfast/target/. /data/holdfast/state/",
		poolDir, binPath, s.Name, s.Addr(), c.clusterID))
	if err != nil {
		return fmt.Errorf("set up %s: %w\n%s", s.Name, err, out)
	}
	for _, f := range []string{"ca.crt", "controller.crt", "controller.key", "node.crt", "node.key"} {
		b, err := s.Get(ctx, "/data/holdfast/tls/"+f)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(c.dir, "tls", s.Name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(c.dir, "tls", s.Name, f), b, 0o600); err != nil {
			return err
		}
	}
	return s.StartAgent(ctx)
}

// StartAgent starts the agent of a storage host, as its service manager would
// at boot.
func (s *Storage) StartAgent(ctx context.Context) (err error) {
	s.agent, err = s.Start(ctx, "target", binPath, "target", "--config", "/data/holdfast/target.yaml")
	return err
}

// KillAgent ends the agent with SIGKILL.
func (s *Storage) KillAgent(ctx context.Context) error { return s.agent.Kill(ctx) }

// Log returns the agent's log.
func (s *Storage) Log(ctx context.Context) string {
	text, err := s.agent.Log(ctx)
	if err != nil {
		return err.Error()
	}
	return text
}

// PowerOn boots a storage host after a power cut and starts its agent.
func (s *Storage) PowerOn(ctx context.Context) error {
	if err := s.Boot(ctx); err != nil {
		return err
	}
	return s.StartAgent(ctx)
}

// hosts writes the hosts file for a role; address tells how it reaches an agent.
func (c *Cluster) hosts(role, tls string, address func(*Storage) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "clusterID: %s\nhosts:\n", c.clusterID)
	for _, s := range c.Storages {
		fmt.Fprintf(&b, "- name: %[1]s\n  address: %[2]s\n  tls: {ca: %[3]s/%[1]s/ca.crt, cert: %[3]s/%[1]s/%[4]s.crt, key: %[3]s/%[1]s/%[4]s.key}\n", s.Name, address(s), tls, role)
	}
	return b.String()
}

// StartController runs the controller on this machine, against the agents'
// management addresses, so that it reaches a host whose data network is down.
func (c *Cluster) StartController(ctx context.Context) error {
	file := filepath.Join(c.dir, "hosts.yaml")
	text := c.hosts("controller", filepath.Join(c.dir, "tls"), func(s *Storage) string { return s.ForwardAddr(agentPort) })
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	socket := filepath.Join(os.TempDir(), fmt.Sprintf("holdfast-%d-%s.sock", os.Getpid(), filepath.Base(c.dir)))
	log, err := os.OpenFile(filepath.Join(c.dir, "controller.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(c.binary, "controller", "--csi-endpoint", "unix://"+socket, "--hosts", file)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.controller = cmd
	if c.conn == nil {
		c.conn, err = grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		c.CSI = csi.NewControllerClient(c.conn)
	}
	return ready(ctx, csi.NewIdentityClient(c.conn), "controller")
}

// KillController ends the controller with SIGKILL.
func (c *Cluster) KillController() error {
	err := c.controller.Process.Kill()
	_ = c.controller.Wait() // reports the signal that was just sent
	return err
}

// ready waits until a plugin answers.
func ready(ctx context.Context, id csi.IdentityClient, what string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		_, err := id.Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
		if err == nil {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", what, err)
		}
	}
}

// Close ends everything.
func (c *Cluster) Close() error {
	var errs []error
	if c.controller != nil {
		errs = append(errs, c.KillController())
	}
	if c.conn != nil {
		errs = append(errs, c.conn.Close())
	}
	return errors.Join(append(errs, c.Lab.Close())...)
}
