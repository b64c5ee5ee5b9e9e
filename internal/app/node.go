package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/kmod"
	"github.com/holdfast-csi/holdfast/internal/metrics"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/ownership"
	"github.com/holdfast-csi/holdfast/internal/patience"
	"github.com/holdfast-csi/holdfast/internal/statefile"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/internal/watch"
	"github.com/holdfast-csi/holdfast/pkg/driver"
)

type nodeOptions struct {
	logOptions
	endpoint, hosts, name, stateDir, runDir, machineID, connect string
	control, metrics, registry, bus                             string
	kubeletDir, kubeletEndpoint                                 string
	grace, adminTimeout                                         time.Duration
	maxVolumes                                                  int64
	topology                                                    map[string]string
}

const (
	defaultNodeState = "/var/lib/holdfast/node"
	defaultNodeRun   = "/run/holdfast/node"
)

func newNodeCommand() *cobra.Command {
	var o nodeOptions
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Serve the CSI node: connect, format, mount, and keep volumes alive",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runNode(cmd.Context(), o) },
	}
	o.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.endpoint, "csi-endpoint", "unix:///csi/csi.sock", "socket on which CSI is served")
	addHostsFlag(cmd, &o.hosts)
	f.StringVar(&o.name, "node-name", os.Getenv("NODE_NAME"), "name of this node; the variable NODE_NAME by default")
	f.StringVar(&o.stateDir, "state-dir", defaultNodeState, "directory for what must survive a reboot: who this node is, and what was given up")
	f.StringVar(&o.runDir, "run-dir", defaultNodeRun, "directory for the records of staged volumes; it must survive the plugin, and should be in memory")
	f.StringVar(&o.machineID, "machine-id-file", "/etc/machine-id", "file with the ID of this machine")
	f.StringVar(&o.control, "control-socket", defaultControlSocket, "socket for operators on this node (holdfast volumes, holdfast abandon); empty for none")
	addMetricsFlag(cmd, &o.metrics)
	f.DurationVar(&o.grace, "withdrawn-grace", watch.DefaultGrace, "how long I/O still waits after a volume was taken from this node")
	f.Int64Var(&o.maxVolumes, "max-volumes", 0, "how many volumes Kubernetes may attach to this node; 0 for no limit")
	f.StringToStringVar(&o.topology, "topology", nil, "segments (KEY=VALUE) of this node, for storage hosts that name a topology in the hosts file; in Kubernetes what is not given here is read from the node's labels")
	f.StringVar(&o.kubeletDir, "kubelet-registration-dir", "", "directory in which the kubelet looks for plugins (plugins_registry under its root): the plugin registers itself there; empty if somebody else does it")
	f.StringVar(&o.kubeletEndpoint, "kubelet-endpoint", "", "path of the CSI socket as the kubelet sees it; the path of --csi-endpoint by default")
	f.StringVar(&o.connect, "connect", "fabrics", "how to connect: fabrics (write /dev/nvme-fabrics) or nvme-cli (run nvme connect)")
	addRegistryFlag(cmd, &o.registry)
	addBusFlag(cmd, &o.bus)
	addAdminTimeoutFlag(cmd, &o.adminTimeout)
	return cmd
}

func addMetricsFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "metrics-address", "", "HOST:PORT on which /metrics and /healthz (whether CSI is served) are served; empty for none")
}

func addRegistryFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "nvme-registry", ownership.DefaultDir, "directory of the host in which other tools (nvme disconnect-all of nvme-cli 3, nvme-stas) see which connections are ours; empty for none")
}

func addAdminTimeoutFlag(cmd *cobra.Command, to *time.Duration) {
	cmd.Flags().DurationVar(to, "admin-timeout", patience.Default, "how long the kernel waits for the answer to an NVMe admin command (nvme_core.admin_timeout, for all NVMe devices of the machine) while a connection of ours is away, made or taken down; whole seconds; 0 leaves it as it is, a minute by default")
}

// nodeGCPercent keeps the plugin small: it runs on every node and has little to
// collect, so collecting often costs nothing that could be noticed, while the
// default lets 4 MiB of garbage gather first.
const nodeGCPercent = 25

// nodeProcessors is how many of the node's processors run this program at a time:
// it mostly waits, and for each processor more the runtime keeps memory, and wakes
// a thread whenever something is to be done. What blocks in the kernel counts not.
const nodeProcessors = 1

func runNode(ctx context.Context, o nodeOptions) error {
	log := o.logger("node")
	if o.grace <= 0 {
		return fmt.Errorf("withdrawn-grace: value %s: want more than 0: %w", o.grace, volume.ErrInvalid)
	}
	if o.maxVolumes < 0 {
		return fmt.Errorf("max-volumes: value %d: want 0 or more: %w", o.maxVolumes, volume.ErrInvalid)
	}
	debug.SetGCPercent(nodeGCPercent)
	runtime.GOMAXPROCS(nodeProcessors)
	cluster, err := config.Load(o.hosts)
	if err != nil {
		return err
	}
	clients, err := dialHosts(cluster)
	if err != nil {
		return err
	}
	identity, err := identify(o.name, o.machineID, o.stateDir, cluster.ClusterID)
	if err != nil {
		return err
	}
	if err := kmod.Load(ctx, command.Exec{}, "nvme-tcp"); err != nil {
		return err
	}
	steady(log)
	// Before the records are opened: who has the socket has them.
	l, err := listenUnix(ctx, o.endpoint)
	if err != nil {
		return err
	}
	in := findCluster(o.name, o.runDir, log)
	k, err := startFlow(ctx, flowOptions{o.runDir, o.connect, o.registry, identity.HostNQN, o.adminTimeout, o.grace, in.owners()}, authorities(clients), log)
	if err != nil {
		return err
	}
	op := operator{flow: k.flow, watch: k.watch, sysfs: nvmesysfs.Default(), stateDir: o.stateDir}
	calls, counted := metrics.NewCalls()
	seen := monitor{o.metrics, o.endpoint, []prometheus.Collector{metrics.New(op), counted}, log}
	if err := errors.Join(serveControl(ctx, o.control, op, log), seen.serve(ctx)); err != nil {
		return err
	}
	in.speak(ctx, op)
	down, err := awaitShutdown(ctx, o.bus, k.flow, log)
	if err != nil {
		return err
	}
	if err := registerWithKubelet(ctx, o, l.Addr(), log); err != nil {
		return err
	}
	s, keys := newCSIServer(log, calls), topologyOf(cluster).Keys()
	csi.RegisterIdentityServer(s, &driver.Identity{Version: Version, Topology: len(keys) > 0})
	csi.RegisterNodeServer(s, &driver.Node{Identity: identity, Flow: k.flow, Health: health{k.flow, k.watch}, MaxVolumes: o.maxVolumes, Segments: o.segments(keys)})
	settle(log)
	log.Info("serving", "endpoint", o.endpoint, "node", identity.NodeID, "hostnqn", identity.HostNQN, "version", Version)
	err = serve(ctx, s, l)
	_ = os.Remove(filepath.Dir(l.Addr().String())) // an uninstalled plugin leaves no empty directory; a new one makes it again
	down.finish(ctx)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTables)
	defer cancel()
	k.guards.Close(last)
	return err
}

// lastTables bounds how long the process ends later for a table that is being
// changed, which takes milliseconds.
const lastTables = 2 * time.Second

// identify builds the node's identity. The installation is made once and kept
// with the records: an image that was cloned before it was made is two nodes.
func identify(name, machineIDFile, stateDir, clusterID string) (driver.NodeIdentity, error) {
	if name == "" {
		return driver.NodeIdentity{}, fmt.Errorf("node-name is empty: set the flag or the variable NODE_NAME: %w", volume.ErrInvalid)
	}
	b, err := os.ReadFile(machineIDFile)
	if err != nil {
		return driver.NodeIdentity{}, fmt.Errorf("machine-id-file: %w", err)
	}
	installation, err := installationOf(stateDir)
	if err != nil {
		return driver.NodeIdentity{}, err
	}
	id, err := volume.NodeID(name, strings.TrimSpace(string(b)), installation)
	if err != nil {
		return driver.NodeIdentity{}, err
	}
	nqn, hostID := volume.HostIdentity(clusterID, id)
	return driver.NodeIdentity{NodeID: id, HostNQN: nqn, HostID: hostID}, nil
}

func installationOf(stateDir string) (string, error) {
	dir, err := statefile.Open[string](filepath.Join(stateDir, "installation"))
	if err != nil {
		return "", err
	}
	id, err := dir.Get("id")
	if errors.Is(err, volume.ErrNotFound) {
		id = rand.Text()
		err = dir.Put("id", id)
	}
	return id, err
}
