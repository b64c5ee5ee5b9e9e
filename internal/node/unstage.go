package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Unstage takes a volume from this node. It answers nil only when everything
// that was written has reached the storage host, or when the kernel had
// deleted the device and there was nothing left to save. While the path is
// away it says so and changes nothing.
func (n *Node) Unstage(ctx context.Context, volumeID, stagingPath string) error {
	if err := validatePath("staging path", stagingPath); err != nil {
		return err
	}
	release, err := n.volumes.Lock(volumeID, "unstage")
	if err != nil {
		return err
	}
	defer release()
	rec, err := n.records.Get(volumeID)
	if errors.Is(err, volume.ErrNotFound) {
		return n.unstageUnknown(ctx, volumeID, stagingPath)
	}
	if err != nil {
		return err
	}
	if rec.Stage.StagingPath != stagingPath {
		return fmt.Errorf("volume %s is staged at %s, not at %s: %w", volumeID, rec.Stage.StagingPath, stagingPath, volume.ErrInvalid)
	}
	return n.unstage(ctx, rec)
}

// unstageUnknown handles a volume without a record: unstaged before, or the
// state directory was lost. What is mounted is written out and taken away.
func (n *Node) unstageUnknown(ctx context.Context, volumeID, path string) error {
	mounts, err := n.Mounter.Mounts()
	if err != nil {
		return err
	}
	m, ok := filesystem.MountedAt(mounts, path)
	if !ok {
		return nil
	}
	n.Log.Warn("unstage of a volume without a record", "volume", volumeID, "path", path, "source", m.Source)
	if err := n.bounded.Do(ctx, "sync "+path, func() error { return n.Flusher.Sync(path) }); err != nil {
		return err
	}
	return n.unmountAll(ctx, path, m.Source)
}

func (n *Node) unstage(ctx context.Context, rec Record) error {
	if rec.BootID == n.BootID && rec.Disk != "" && rec.Phase != Flushed {
		if err := n.checkUnpublished(rec); err != nil {
			return err
		}
		rec.Phase = Unstaging
		if err := n.records.Put(rec.Stage.VolumeID, rec); err != nil {
			return err
		}
		if err := n.flush(ctx, rec); err != nil {
			return fmt.Errorf("volume %s: %w", rec.Stage.VolumeID, err)
		}
		rec.Phase = Flushed
		if err := n.records.Put(rec.Stage.VolumeID, rec); err != nil {
			return err
		}
	}
	return n.takeDown(ctx, rec)
}

// checkUnpublished keeps a volume staged while a pod's path still shows it.
func (n *Node) checkUnpublished(rec Record) error {
	mounts, err := n.Mounter.Mounts()
	if err != nil {
		return err
	}
	for path := range rec.Targets {
		if _, ok := filesystem.MountedAt(mounts, path); ok {
			return fmt.Errorf("volume %s is still published at %s: unpublish it first: %w", rec.Stage.VolumeID, path, volume.ErrUnavailable)
		}
	}
	return nil
}

// flush brings everything written to the storage host.
func (n *Node) flush(ctx context.Context, rec Record) error {
	p, err := n.path(rec)
	if err != nil {
		return err
	}
	switch p {
	case pathGone:
		n.Log.Error("the kernel deleted the device of a staged volume; what was written and never synced is lost", "volume", rec.Stage.VolumeID, "disk", rec.Disk)
		return nil
	case pathWaiting:
		return fmt.Errorf("session %s is reconnecting and unsaved data may wait for it: unstage goes on when the storage host is back: %w", rec.nqn(), volume.ErrPending)
	}
	mounts, err := n.Mounter.Mounts()
	if err != nil {
		return err
	}
	path := rec.Stage.StagingPath
	m, mounted := filesystem.MountedAt(mounts, path)
	if rec.Stage.FSType != "" && mounted && m.Major == rec.Major && m.Minor == rec.Minor {
		return n.lossIfIO(n.bounded.Do(ctx, "sync "+path, func() error { return n.Flusher.Sync(path) }))
	}
	// A block volume; or an unmount that was begun and may not have ended:
	// "not in the mount table" does not mean "written".
	if err := n.superblockGone(ctx, rec); err != nil {
		return err
	}
	return n.lossIfIO(n.bounded.Do(ctx, "flush "+rec.Device, func() error { return n.Flusher.FlushDevice(rec.Device) }))
}

func (n *Node) lossIfIO(err error) error {
	if err == nil || errors.Is(err, volume.ErrPending) {
		return err
	}
	return fmt.Errorf("the storage host did not take all that was written: %w (%w)", volume.ErrDataLoss, err)
}

// takeDown removes what a stage has made, in the reverse order, and the record
// last. Nothing in it saves data: that was flush's part.
func (n *Node) takeDown(ctx context.Context, rec Record) error {
	if rec.BootID == n.BootID {
		if err := n.unmountAll(ctx, rec.Stage.StagingPath, rec.Disk); err != nil {
			return err
		}
		if err := n.superblockGone(ctx, rec); err != nil {
			return err
		}
	}
	release, err := n.sessions.close(ctx, rec.nqn())
	if err != nil {
		return err
	}
	defer release()
	shared, err := n.sessionShared(rec)
	if err != nil {
		return err
	}
	if !shared {
		if err := n.Fabric.Disconnect(ctx, rec.nqn()); err != nil {
			return fmt.Errorf("volume %s: %w", rec.Stage.VolumeID, err)
		}
	}
	return n.records.Delete(rec.Stage.VolumeID)
}

// bury clears away a generation that has ended: a newer one was given to this
// node, which the storage host does only after the old one was withdrawn. What
// was queued or cached for the old one has no right to land anywhere.
func (n *Node) bury(ctx context.Context, rec Record) error {
	n.Log.Warn("clearing away a withdrawn publication", "volume", rec.Stage.VolumeID, "generation", rec.Stage.Attachment.Generation(), "disk", rec.Disk)
	shared, err := n.sessionShared(rec)
	if err != nil {
		return err
	}
	if shared {
		err = n.awaitWithdrawal(ctx, rec)
	} else {
		err = n.Fabric.Disconnect(ctx, rec.nqn())
	}
	if err != nil {
		return err
	}
	for path := range rec.Targets {
		if err := n.unmountAll(ctx, path, rec.Disk); err != nil {
			return err
		}
	}
	if err := n.unmountAll(ctx, rec.Stage.StagingPath, rec.Disk); err != nil {
		return err
	}
	return n.records.Delete(rec.Stage.VolumeID)
}

// awaitWithdrawal waits until the kernel has seen that the namespace is no
// longer there: at once on a live session, after the reconnect on another. The
// other volumes of the session must not be disturbed for it.
func (n *Node) awaitWithdrawal(ctx context.Context, rec Record) error {
	if err := n.Fabric.EnsureSession(ctx, rec.Stage.Attachment.Session); err != nil {
		return err
	}
	return until(ctx, "the kernel still has the withdrawn device "+rec.Disk, func() (bool, error) {
		p, err := n.path(rec)
		return p == pathGone, err
	})
}
