package app

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/internal/control"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/statefile"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/internal/watch"
)

// operator is what people and Prometheus see of the node plugin, and the one
// thing that people can do with it.
type operator struct {
	flow     *node.Node
	watch    *watch.Watch
	sysfs    nvmesysfs.FS
	stateDir string
}

var _ control.Service = operator{}

// Volumes implements control.Service.
func (o operator) Volumes(ctx context.Context) []control.Volume {
	records := o.flow.Records()
	slices.SortFunc(records, func(a, b node.Record) int { return strings.Compare(a.Stage.VolumeID, b.Stage.VolumeID) })
	out := []control.Volume{}
	for _, r := range records {
		out = append(out, o.volume(ctx, r))
	}
	return out
}

func (o operator) volume(ctx context.Context, r node.Record) control.Volume {
	v := control.Volume{
		ID: r.Stage.VolumeID, Claim: r.Stage.Claim, Phase: string(r.Phase), FSType: r.Stage.FSType, Guard: string(node.GuardKernel), Disk: r.Disk,
		NQN: r.Stage.Attachment.Session.NQN, Published: slices.Sorted(maps.Keys(r.Targets)),
	}
	if r.Table != "" {
		v.Guard = string(node.GuardDM)
	}
	c, err := health{o.flow, o.watch}.Condition(ctx, v.ID)
	if err != nil {
		c = node.Condition{State: "Unknown", Message: err.Error()}
	}
	v.State, v.Message = string(c.State), c.Message
	if r.Disk != "" {
		v.Requests, _ = o.sysfs.Inflight(r.Disk) // a disk that is gone has none
	}
	if w, ok := o.watch.Report(v.ID); ok {
		v.Outages, v.OutageSeconds, v.Swaps = w.Reconnects, w.Waited.Seconds(), w.Swaps
		if !w.WaitSince.IsZero() {
			v.WaitingSince = &w.WaitSince
		}
	}
	return v
}

// Sessions implements control.Service.
func (o operator) Sessions() []control.Session {
	volumes := o.sessionVolumes()
	var out []control.Session
	for _, l := range o.watch.Links() {
		out = append(out, control.Session{
			NQN: l.NQN, Live: l.Live, Controllers: l.Controllers, Volumes: volumes[l.NQN], Attempts: l.Attempts, Outages: l.Outages, Reconnects: l.Connects,
		})
	}
	return out
}

// sessionVolumes counts the volumes of each session.
func (o operator) sessionVolumes() map[string]int {
	volumes := map[string]int{}
	for _, r := range o.flow.Records() {
		volumes[r.Stage.Attachment.Session.NQN]++
	}
	return volumes
}

// abandoned is the record that a volume was given up by hand.
type abandoned struct {
	At     time.Time
	Volume control.Volume // as it was then
}

// Abandon implements control.Service. The record is on disk before the act.
func (o operator) Abandon(ctx context.Context, volumeID string) error {
	at := slices.IndexFunc(o.flow.Records(), func(r node.Record) bool { return r.Stage.VolumeID == volumeID })
	if at < 0 {
		return fmt.Errorf("volume %s is not staged on this node: %w", volumeID, volume.ErrNotFound)
	}
	v := o.volume(ctx, o.flow.Records()[at])
	dir, err := statefile.Open[abandoned](filepath.Join(o.stateDir, "abandoned"))
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	if err := dir.Put(now.Format(time.RFC3339Nano)+" "+volumeID, abandoned{At: now, Volume: v}); err != nil {
		return err
	}
	return o.flow.End(ctx, volumeID, node.Abandoned)
}

// serveControl serves the control socket until ctx ends; path "" is none.
func serveControl(ctx context.Context, path string, o operator, log *slog.Logger) error {
	if path == "" {
		return nil
	}
	l, err := listenSocket(ctx, "control-socket", path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("control-socket: %w", err)
	}
	serveHTTP(ctx, control.NewServer(o), l, log)
	return nil
}
