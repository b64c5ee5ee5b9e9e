package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Publish shows a staged volume at a pod's path: a bind mount of the staging
// path, or of the device node for a block volume. A request that carries a
// newer generation than the stage, or finds the stage dead, stages anew: the
// kubelet does not always call NodeStage again.
func (n *Node) Publish(ctx context.Context, req PublishRequest) error {
	if err := errors.Join(req.validate(), validatePath("target path", req.TargetPath)); err != nil {
		return err
	}
	release, err := n.volumes.Lock(req.VolumeID, "publish")
	if err != nil {
		return err
	}
	defer release()
	if _, err := n.records.Get(req.VolumeID); errors.Is(err, volume.ErrNotFound) {
		return fmt.Errorf("volume %s is not staged on this node: %w", req.VolumeID, volume.ErrPrecondition)
	}
	// Whatever this leaves, the kubelet unstages it: to it the volume is staged.
	if _, err := n.stage(ctx, req.StageRequest); err != nil {
		return err
	}
	rec, err := n.records.Get(req.VolumeID)
	if err != nil {
		return err
	}
	if req.Exclusive {
		if err := n.nowhereElse(rec, req.TargetPath); err != nil {
			return err
		}
	}
	rec.Targets[req.TargetPath], rec.LastTarget = Target{ReadOnly: req.TargetReadOnly}, req.TargetPath
	if err := n.records.Put(req.VolumeID, rec); err != nil {
		return err
	}
	if err := n.bind(ctx, rec, req); err != nil {
		return fmt.Errorf("volume %s: %w: %w", req.VolumeID, volume.ErrUnavailable, err)
	}
	return nil
}

// nowhereElse fails if a path other than path shows the volume. A path on record
// where nothing is mounted is left over from a publish that failed.
func (n *Node) nowhereElse(rec Record, path string) error {
	at, err := n.publishedAt(rec)
	for _, other := range at {
		if other != path {
			return fmt.Errorf("volume %s is published at %s and its access mode allows one path only: %w", rec.Stage.VolumeID, other, volume.ErrPrecondition)
		}
	}
	return err
}

// publishedAt returns the paths of the record at which something is mounted.
func (n *Node) publishedAt(rec Record) ([]string, error) {
	mounts, err := n.Mounter.Mounts()
	if err != nil {
		return nil, err
	}
	var at []string
	for path := range rec.Targets {
		if _, ok := filesystem.MountedAt(mounts, path); ok {
			at = append(at, path)
		}
	}
	slices.Sort(at)
	return at, nil
}

func (n *Node) bind(ctx context.Context, rec Record, req PublishRequest) error {
	mounts, err := n.Mounter.Mounts()
	if err != nil {
		return err
	}
	if m, ok := filesystem.MountedAt(mounts, req.TargetPath); ok {
		if shows(m, rec, req.TargetReadOnly) {
			return nil
		}
		// A bind of an earlier device or of another mode: what it shows is not
		// what is asked for.
		if err := n.unmountAll(ctx, req.TargetPath, rec.Disk); err != nil {
			return err
		}
	}
	source := rec.Stage.StagingPath
	if rec.Stage.FSType == "" {
		source = rec.Device
		err = errors.Join(filesystem.MakeDir(filepath.Dir(req.TargetPath)), filesystem.MakeFile(req.TargetPath))
	} else {
		err = filesystem.MakeDir(req.TargetPath)
	}
	if err != nil {
		return err
	}
	return n.bounded.Do(ctx, "bind "+req.TargetPath, func() error { return n.Mounter.Bind(source, req.TargetPath, req.TargetReadOnly) })
}

// shows says whether m is what a publish of rec makes. The device node of a
// block volume comes from devtmpfs, whose root is the device's name; a node
// that was deleted since has "//deleted" behind it and so does not match.
func shows(m filesystem.Mount, rec Record, readOnly bool) bool {
	return isOf(m, rec) && slices.Contains(m.Options, "ro") == (readOnly || rec.Stage.ReadOnly && rec.Stage.FSType != "")
}

func isOf(m filesystem.Mount, rec Record) bool {
	if rec.Stage.FSType == "" {
		return m.Root == "/"+rec.Disk
	}
	return m.Major == rec.Major && m.Minor == rec.Minor
}

// Unpublish takes a pod's path away. Nothing there is no error.
func (n *Node) Unpublish(ctx context.Context, volumeID, targetPath string) error {
	if err := validatePath("target path", targetPath); err != nil {
		return err
	}
	release, err := n.volumes.Lock(volumeID, "unpublish")
	if err != nil {
		return err
	}
	defer release()
	if err := n.unmountAll(ctx, targetPath, "volume "+volumeID); err != nil {
		return err
	}
	if err := filesystem.RemoveMountPoint(targetPath); err != nil {
		return fmt.Errorf("volume %s: %w: %w", volumeID, volume.ErrUnavailable, err)
	}
	rec, err := n.records.Get(volumeID)
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	delete(rec.Targets, targetPath)
	return n.records.Put(volumeID, rec)
}
