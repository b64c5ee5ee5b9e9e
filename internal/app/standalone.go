package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/holdfast-csi/holdfast/internal/agent"
	"github.com/holdfast-csi/holdfast/internal/agentclient"
	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/kmod"
	"github.com/holdfast-csi/holdfast/internal/metrics"
	"github.com/holdfast-csi/holdfast/internal/pool/file"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/watch"
	"github.com/holdfast-csi/holdfast/pkg/driver"
)

type standaloneOptions struct {
	logOptions
	endpoint, dir, runDir, pool, address, name, machineID, registry, bus string
	port                                                                 int
	adminTimeout                                                         time.Duration
}

// standaloneCluster is the cluster ID of an installation that has no cluster.
const standaloneCluster = "standalone"

func newStandaloneCommand() *cobra.Command {
	var o standaloneOptions
	cmd := &cobra.Command{
		Use:   "standalone --pool-dir DIR",
		Short: "Serve controller, node and storage host in one process, on a directory",
		Long: "Serve the CSI controller and node and the agent of the storage host in one process, for\n" +
			"a single machine. Volumes are connected over the loopback by the kernel all the same.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runStandalone(cmd.Context(), o) },
	}
	o.addFlags(cmd)
	host, _ := os.Hostname()
	f := cmd.Flags()
	f.StringVar(&o.endpoint, "csi-endpoint", "unix:///csi/csi.sock", "socket on which CSI is served")
	f.StringVar(&o.dir, "state-dir", "/var/lib/holdfast/standalone", "directory for the records of the storage host, and for who this node is")
	f.StringVar(&o.runDir, "run-dir", "/run/holdfast/standalone", "directory for the records of staged volumes; it must survive the process, and should be in memory")
	f.StringVar(&o.pool, "pool-dir", "", "directory of the volumes, on XFS, btrfs or ext4")
	f.StringVar(&o.address, "address", "127.0.0.1", "IP address over which volumes are connected")
	f.IntVar(&o.port, "port", config.DefaultNVMePort, "TCP port over which volumes are connected")
	f.StringVar(&o.name, "node-name", host, "name of this node")
	f.StringVar(&o.machineID, "machine-id-file", "/etc/machine-id", "file with the ID of this machine")
	addRegistryFlag(cmd, &o.registry)
	addBusFlag(cmd, &o.bus)
	addAdminTimeoutFlag(cmd, &o.adminTimeout)
	return cmd
}

func runStandalone(ctx context.Context, o standaloneOptions) error {
	log := o.logger("standalone")
	cfg := config.Target{
		Host: "local", Listen: config.DefaultListen, StateDir: filepath.Join(o.dir, "target"),
		Pools: []config.Pool{{Name: "local", Path: o.pool, Address: o.address, Port: o.port}},
	}
	if err := cfg.Complete(); err != nil {
		return err
	}
	nodeDir := filepath.Join(o.dir, "node")
	identity, err := identify(o.name, o.machineID, nodeDir, standaloneCluster)
	if err != nil {
		return err
	}
	client, closeAgent, err := embeddedAgent(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer closeAgent()
	if err := kmod.Load(ctx, command.Exec{}, "nvme-tcp"); err != nil {
		return err
	}
	clients := map[string]*agentclient.Client{cfg.Host: client}
	// Before the records are opened: who has the socket has them.
	l, err := listenUnix(ctx, o.endpoint)
	if err != nil {
		return err
	}
	k, err := startFlow(ctx, flowOptions{o.runDir, "fabrics", o.registry, identity.HostNQN, o.adminTimeout, watch.DefaultGrace, nil}, authorities(clients), log)
	if err != nil {
		return err
	}
	down, err := awaitShutdown(ctx, o.bus, k.flow, log)
	if err != nil {
		return err
	}
	calls, _ := metrics.NewCalls() // nobody scrapes it
	s := newCSIServer(log, calls)
	csi.RegisterIdentityServer(s, &driver.Identity{Version: Version})
	csi.RegisterControllerServer(s, &driver.Controller{Hosts: backends(clients, nil), ClusterID: standaloneCluster})
	csi.RegisterNodeServer(s, &driver.Node{Identity: identity, Flow: k.flow, Health: health{k.flow, k.watch}})
	log.Info("serving", "endpoint", o.endpoint, "node", identity.NodeID, "pool", o.pool, "version", Version)
	err = serve(ctx, s, l)
	down.finish(ctx)
	return err
}

// embeddedAgent runs the agent behind a connection in memory: the same calls,
// codes and messages as over a network.
func embeddedAgent(ctx context.Context, cfg config.Target, log *slog.Logger) (*agentclient.Client, func(), error) {
	if err := initEmptyPools(cfg); err != nil {
		return nil, nil, err
	}
	service, closeDB, err := newTargetService(ctx, cfg, log)
	if err != nil {
		return nil, nil, err
	}
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer(grpc.UnaryInterceptor(agent.Interceptor(log)))
	agent.Register(s, service)
	go func() {
		if err := s.Serve(l); err != nil {
			log.Error("the embedded agent stopped", "err", err)
		}
	}()
	go service.Run(ctx)
	client, err := agentclient.InProcess(cfg.Host, l)
	return client, func() { s.Stop(); closeDB() }, err
}

// initEmptyPools marks the pool directory when the records know no volume yet.
// Later a directory without its mark is a file system that is not mounted.
func initEmptyPools(cfg config.Target) (err error) {
	db, err := openStore(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	known := 0
	if err := db.View(func(tx *store.Tx) error {
		vs, err := tx.Volumes(uuid.Nil, 1)
		known = len(vs)
		return err
	}); err != nil || known > 0 {
		return err
	}
	for _, p := range cfg.Pools {
		if err := file.Init(fileOptions(p, db.Installation().ID)); err != nil {
			return err
		}
	}
	return nil
}
