package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/internal/dm"
	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/kmod"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/patience"
	"github.com/holdfast-csi/holdfast/internal/uevent"
	"github.com/holdfast-csi/holdfast/internal/watch"
)

// openGuards opens the device mapper, with the modules that a table needs: they
// are loaded now, because to load one takes memory and the root disk.
func openGuards(ctx context.Context, log *slog.Logger) (*guard.Guards, error) {
	if err := kmod.Load(ctx, command.Exec{}, "dm-mod", "dm-multipath", "dm-queue-length"); err != nil {
		return nil, err
	}
	if err := kmod.Load(ctx, command.Exec{}, "dm-delay", "dm-flakey"); err != nil {
		log.Warn("the modules dm-delay and dm-flakey are not there: a volume that is read while its storage host is away keeps a processor busy", "err", err)
	}
	fs := nvmesysfs.Default()
	c, err := dm.Open(fs.Dev)
	if err != nil {
		return nil, err
	}
	log.Debug("device mapper is there", "multipath", c.HasTarget("multipath"))
	return guard.New(c, fs.Dev), nil
}

type keepOptions struct {
	flow     *node.Node
	guards   *guard.Guards
	patience *patience.Limit
	cluster  watch.Cluster
	grace    time.Duration
}

// keepAlive starts the watch of what the flow has staged.
func keepAlive(ctx context.Context, o keepOptions, log *slog.Logger) *watch.Watch {
	fs := nvmesysfs.Default()
	log = log.With("component", "watch")
	hints, err := uevent.Listen(ctx)
	if err != nil {
		log.Warn("no uevents: what comes back is noticed a quarter of a second later", "err", err)
	}
	w := watch.New(watch.Options{
		Cluster: o.cluster, Keeper: &keeper{Node: o.flow}, Sysfs: nvmesysfs.NewRoster(fs), Guards: o.guards, Own: o.flow.Own, Patience: o.patience,
		Hints: hints.Any, About: hints.About, Resized: hints.Resized, Grace: o.grace, Clocks: clocksOf(o.flow, log), Dev: fs.Dev, Log: log,
	})
	go w.Run(ctx)
	return w
}

// keeper shows the node's workflows to the watch, which alone uses it.
type keeper struct {
	*node.Node
	version uint64
	volumes []watch.Volume
}

// Volumes implements watch.Keeper.
func (k *keeper) Volumes() []watch.Volume {
	if v := k.Version(); v != k.version || k.volumes == nil {
		k.version, k.volumes = v, watched(k.Records(), k.Finite)
	}
	return k.volumes
}

func watched(records []node.Record, finite func(nqn string) bool) []watch.Volume {
	out := make([]watch.Volume, 0, len(records))
	for _, r := range records {
		settled := r.Phase == node.Staged
		if r.Table == "" && !settled {
			continue
		}
		at := r.Stage.Attachment
		out = append(out, watch.Volume{
			ID: r.Stage.VolumeID, Session: at.Session, Identity: r.Identity(), Eager: at.Eager, Table: r.Table,
			Generation: at.Generation(), Managed: at.Managed != nil, Unsettled: !settled, Finite: finite(at.Session.NQN), Ended: r.Ended != node.NotEnded,
		})
	}
	return out
}

// End implements watch.Keeper.
func (k *keeper) End(ctx context.Context, v watch.Volume, why watch.Reason) error {
	if why == watch.Again {
		return k.EndAgain(ctx, v.ID, v.Generation)
	}
	return k.EndGeneration(ctx, v.ID, v.Generation, endings[why])
}

var endings = map[watch.Reason]node.Ending{watch.Withdrawn: node.Withdrawn, watch.Expired: node.Expired}
