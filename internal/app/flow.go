package app

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/ownership"
	"github.com/holdfast-csi/holdfast/internal/patience"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/internal/watch"
)

type flowOptions struct {
	runDir, connect, registry, hostNQN string
	adminTimeout, grace                time.Duration
	cluster                            watch.Cluster // nil outside of one
}

// kept is the node's workflows with what keeps alive what they have staged.
type kept struct {
	flow   *node.Node
	guards *guard.Guards
	watch  *watch.Watch
}

// startFlow opens the records and all that a volume needs on the running kernel, and
// starts the watch. Whoever calls has the socket: two of it would share the records.
func startFlow(ctx context.Context, o flowOptions, ask node.Authorities, log *slog.Logger) (kept, error) {
	guards, err := openGuards(ctx, log)
	if err != nil {
		return kept{}, err
	}
	fs := nvmesysfs.Default()
	boot, err := node.BootID()
	if err != nil {
		return kept{}, err
	}
	limit, err := patience.New(fs, o.adminTimeout, filepath.Join(node.BootDir(o.runDir, boot), "patience"), log)
	if err != nil {
		return kept{}, err
	}
	fabric, err := newFabric(o, limit, log)
	if err != nil {
		return kept{}, err
	}
	system := node.System{SysRoot: fs.Sys, Run: command.Exec{}}
	flow, err := node.New(node.Options{
		RunDir: o.runDir, BootID: boot, Fabric: fabric,
		Sysfs: fs, Mounter: system, Disk: system, Flusher: system, Guards: guards, Authorities: ask, Log: log,
	})
	if err != nil {
		return kept{}, err
	}
	return kept{flow, guards, keepAlive(ctx, keepOptions{flow, guards, limit, o.cluster, o.grace}, log)}, nil
}

// newFabric builds what makes and unmakes sessions.
func newFabric(o flowOptions, limit *patience.Limit, log *slog.Logger) (*initiator.Host, error) {
	fs := nvmesysfs.Default()
	var connector initiator.Connector
	switch o.connect {
	case "fabrics":
		connector = initiator.NewFabrics(fs)
	case "nvme-cli":
		connector = initiator.NewCLI(command.Exec{})
	default:
		return nil, fmt.Errorf("connect: value %q: want fabrics or nvme-cli: %w", o.connect, volume.ErrInvalid)
	}
	if on, err := fs.MultipathEnabled(); err == nil && !on {
		log.Warn("native NVMe multipath is off (nvme_core.multipath=N): I/O is held while a path is away, but a path that the kernel gives up takes its device with it")
	}
	host := initiator.Options{FS: fs, Connector: connector, HostNQN: o.hostNQN, Patience: limit}
	if o.registry != "" {
		host.Owners = ownership.New(o.registry, fs.Sys, log)
	}
	return initiator.New(host), nil
}
