package app

import (
	"context"
	"errors"
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
// Outside of a cluster there is nothing to heed, and without the right to read
// PersistentVolumes everything else works.
func heedAnnotations(ctx context.Context, op operator, log *slog.Logger) {
	log = log.With("component", "giveup")
	client, err := kube.InCluster()
	if errors.Is(err, kube.ErrNotInCluster) {
		return
	}
	if err != nil {
		log.Warn("volumes can be given up on this node only: the API server cannot be asked", "err", err)
		return
	}
	go giveup.New(giveup.Options{Waiting: op.waiting, Annotations: client.Annotations, Abandon: op.Abandon, Log: log}).Run(ctx)
}

// waiting are the volumes in an outage whose PersistentVolume is known.
func (o operator) waiting() []giveup.Waiting {
	var out []giveup.Waiting
	for _, r := range o.flow.Records() {
		w, known := o.watch.Report(r.Stage.VolumeID)
		if !known || r.Ended != node.NotEnded || w.WaitSince.IsZero() || time.Since(w.WaitSince) < askAboutAfter {
			continue
		}
		paths := append(slices.Sorted(maps.Keys(r.Targets)), r.Stage.StagingPath)
		if pv := giveup.PersistentVolumeOf(paths); pv != "" {
			out = append(out, giveup.Waiting{VolumeID: r.Stage.VolumeID, PersistentVolume: pv, Since: w.WaitSince})
		}
	}
	return out
}
