package app

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/internal/giveup"
	"github.com/holdfast-csi/holdfast/internal/kube"
	"github.com/holdfast-csi/holdfast/internal/node"
)

// askAboutAfter is how long an outage lasts before anybody can want to give its
// volumes up.
const askAboutAfter = 10 * time.Second

// heedAnnotations gives volumes up whose PersistentVolume says so, until ctx ends.
func heedAnnotations(ctx context.Context, op operator, client *kube.Client, log *slog.Logger) {
	o := giveup.Options{Waiting: op.waiting, Annotations: client.Annotations, Abandon: op.Abandon, Log: log.With("component", "giveup")}
	go giveup.New(o).Run(ctx)
}

// waiting are the volumes in an outage whose PersistentVolume is known.
func (o operator) waiting() []giveup.Waiting {
	var out []giveup.Waiting
	for _, r := range o.flow.Records() {
		w, known := o.watch.Report(r.Stage.VolumeID)
		if !known || r.Ended != node.NotEnded || w.WaitSince.IsZero() || time.Since(w.WaitSince) < askAboutAfter {
			continue
		}
		if pv := persistentVolume(r); pv != "" {
			out = append(out, giveup.Waiting{VolumeID: r.Stage.VolumeID, PersistentVolume: pv, Since: w.WaitSince})
		}
	}
	return out
}

// persistentVolume is the name of a record's, from the kubelet's paths.
func persistentVolume(r node.Record) string {
	return giveup.PersistentVolumeOf(append(slices.Sorted(maps.Keys(r.Targets)), r.LastTarget, r.Stage.StagingPath))
}
