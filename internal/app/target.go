package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/internal/agent"
	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/gate"
	"github.com/holdfast-csi/holdfast/internal/kmod"
	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/pki"
	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/pool/file"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const (
	defaultTargetConfig = "/etc/holdfast/target.yaml"
	storeFile           = "state.db"
	configfsRoot        = "/sys/kernel/config"
)

type targetOptions struct {
	logOptions
	config string
}

func newTargetCommand() *cobra.Command {
	var o targetOptions
	cmd := &cobra.Command{
		Use:   "target",
		Short: "Run the agent of a storage host, or set one up",
		Long: "Run the agent of a storage host: it keeps volumes in pools and exports them through\n" +
			"the kernel's NVMe/TCP target. Stopping the agent disturbs no volume.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runTarget(cmd.Context(), o) },
	}
	o.addFlags(cmd)
	cmd.PersistentFlags().StringVar(&o.config, "config", defaultTargetConfig, "configuration file")
	cmd.AddCommand(newTargetInitCommand(&o), newTargetIssueCommand(), newTargetInviteCommand(), newTargetFoundCommand(), newTargetStopCommand(&o))
	return cmd
}

func runTarget(ctx context.Context, o targetOptions) error {
	log := o.logger("target")
	cfg, err := config.LoadTarget(o.config)
	if err != nil {
		return err
	}
	tls, err := pki.ServerTLS(cfg.TLS.CA, cfg.TLS.Cert, cfg.TLS.Key)
	if err != nil {
		return err
	}
	service, closeDB, err := newTargetService(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer closeDB()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen: value %q: %w", cfg.Listen, err)
	}
	go service.Run(ctx)
	s := agent.NewServer(service, tls, log)
	log.Info("serving", "listen", cfg.Listen, "host", cfg.Host, "pools", len(cfg.Pools), "version", Version)
	return serve(ctx, s, l)
}

// newTargetService builds the agent on the running kernel; close releases its
// state store.
func newTargetService(ctx context.Context, cfg config.Target, log *slog.Logger) (_ *agent.Service, closeDB func(), err error) {
	tree, g, err := kernelTarget(ctx)
	if err != nil {
		return nil, nil, err
	}
	db, err := openStore(cfg)
	if err != nil {
		return nil, nil, err
	}
	service := agent.New(agent.Options{
		Host: cfg.Host, Version: Version, DB: db, Tree: tree, Gate: g, Log: log, Pools: poolOptions(cfg, db.Installation().ID),
	})
	return service, func() {
		if err := db.Close(); err != nil {
			log.Error("close the state store", "err", err)
		}
	}, nil
}

func openStore(cfg config.Target) (*store.DB, error) {
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("stateDir: %w", err)
	}
	return store.Open(cfg.StateDir + "/" + storeFile)
}

// kernelTarget makes sure of the kernel's target and of nftables, or says what
// is missing.
func kernelTarget(ctx context.Context) (nvmet.Tree, gate.Gate, error) {
	if os.Geteuid() != 0 {
		return nil, nil, fmt.Errorf("the kernel's NVMe target is configured by root only; run as root: %w", volume.ErrPrecondition)
	}
	if err := kmod.Load(ctx, command.Exec{}, "configfs", "nvmet", "nvmet-tcp"); err != nil {
		return nil, nil, err
	}
	if err := kmod.MountConfigFS(configfsRoot); err != nil {
		return nil, nil, err
	}
	root := configfsRoot + "/nvmet"
	if err := nvmet.Ready(root); err != nil {
		return nil, nil, err
	}
	g, err := gate.New()
	if err != nil {
		return nil, nil, err
	}
	return nvmet.NewConfigFS(root), g, nil
}

func poolOptions(cfg config.Target, installation string) []agent.PoolOptions {
	var out []agent.PoolOptions
	for _, p := range cfg.Pools {
		out = append(out, agent.PoolOptions{Name: p.Name, Portal: p.Portal(), Open: func() (pool.Pool, error) {
			return file.Open(fileOptions(p, installation))
		}})
	}
	return out
}

func fileOptions(p config.Pool, installation string) file.Options {
	return file.Options{Name: p.Name, Dir: p.Path, Installation: installation, ReserveBytes: p.ReserveBytes}
}
