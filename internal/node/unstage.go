package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/initiator"
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
		// An unmount that hangs is out of the mount table: wait for it.
		return n.bounded.Do(ctx, unmountKey(path, volumeID), func() error { return nil })
	}
	n.Log.Warn("unstage of a volume without a record", "volume", volumeID, "path", path, "source", m.Source)
	if err := n.bounded.Do(ctx, "sync "+path, func() error { return n.Flusher.Sync(path) }); err != nil {
		return n.lossIfIO(err)
	}
	return n.unmountAll(ctx, path, volumeID)
}

func (n *Node) unstage(ctx context.Context, rec Record) error {
	unused, err := n.neverMounted(rec)
	if err != nil {
		return err
	}
	if rec.Disk != "" && rec.Phase != Flushed && !unused {
		if err := n.checkUnpublished(rec); err != nil {
			return err
		}
		rec.Phase = Unstaging
		if err := n.records.Put(rec.Stage.VolumeID, rec); err != nil {
			return err
		}
		if err := n.flush(ctx, &rec); err != nil {
			return fmt.Errorf("volume %s: %w", rec.Stage.VolumeID, err)
		}
		rec.Phase = Flushed
		if err := n.records.Put(rec.Stage.VolumeID, rec); err != nil {
			return err
		}
	}
	return n.takeDown(ctx, rec)
}

// neverMounted says whether a stage never came to its mount. Then nothing of
// anybody's waits to be written, and a disk that takes no flush, which may be
// why the stage failed, must not keep the volume on this node.
func (n *Node) neverMounted(rec Record) (bool, error) {
	if rec.Phase != Staging || rec.Stage.FSType == "" || rec.Disk == "" {
		return false, nil
	}
	mounts, err := n.Mounter.Mounts()
	if err != nil {
		return false, err
	}
	if _, mounted := filesystem.MountedAt(mounts, rec.Stage.StagingPath); mounted {
		return false, nil
	}
	return n.Flusher.SuperblockGone(rec.Kind(), rec.Disk)
}

// checkUnpublished keeps a volume staged while a pod's path still shows it.
func (n *Node) checkUnpublished(rec Record) error {
	at, err := n.publishedAt(rec)
	if err == nil && len(at) > 0 {
		err = fmt.Errorf("volume %s is still published at %s: unpublish it first: %w", rec.Stage.VolumeID, at[0], volume.ErrUnavailable)
	}
	return err
}

// flush brings everything written to the storage host.
func (n *Node) flush(ctx context.Context, rec *Record) error {
	p, err := n.path(*rec)
	if err != nil {
		return err
	}
	switch p {
	case pathGone:
		n.Log.Error("the device of a staged volume is gone; what was written and never synced is lost", "volume", rec.Stage.VolumeID, "disk", rec.Disk, "ended", rec.Ended)
		if rec.Ended != NotEnded {
			_, err = n.disconnectIfDead(ctx, *rec)
		}
		return err
	case pathWaiting:
		if n.withdrawn(ctx, *rec) {
			return n.dropWithdrawn(ctx, rec)
		}
		return fmt.Errorf("session %s is reconnecting and unsaved data may wait for it: unstage goes on when the storage host is back: %w", rec.nqn(), volume.ErrPending)
	case pathLive:
	}
	mounts, err := n.Mounter.Mounts()
	if err != nil {
		return err
	}
	m, mounted := filesystem.MountedAt(mounts, rec.Stage.StagingPath)
	if rec.Stage.FSType != "" && mounted && m.Major == rec.Major && m.Minor == rec.Minor {
		return n.sync(ctx, *rec)
	}
	// A block volume; or an unmount that was begun and may not have ended:
	// "not in the mount table" does not mean "written".
	if err := n.superblockGone(ctx, *rec); err != nil {
		return err
	}
	return n.lossIfIO(n.bounded.Do(ctx, "flush "+rec.Device, func() error { return n.Flusher.FlushDevice(rec.Device) }))
}

// sync writes the file system of a staged volume out. One that has stopped writes
// nothing any more, and answers OK or an error for ever, as the kernel pleases.
func (n *Node) sync(ctx context.Context, rec Record) error {
	stopped, err := n.stopped(ctx, rec)
	if stopped {
		n.Log.Error("an I/O error has stopped the file system of a staged volume; what was written and not synced before is lost", "volume", rec.Stage.VolumeID, "disk", rec.Disk, "fsType", rec.Stage.FSType)
	}
	if stopped || err != nil {
		return err
	}
	path := rec.Stage.StagingPath
	return n.lossIfIO(n.bounded.Do(ctx, "sync "+path, func() error { return n.Flusher.Sync(path) }))
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
	if err := n.failIfEnded(rec); err != nil {
		return err
	}
	if err := n.unmountAll(ctx, rec.Stage.StagingPath, rec.Disk); err != nil {
		return err
	}
	if err := n.superblockGone(ctx, rec); err != nil {
		return err
	}
	if err := n.unguard(ctx, rec); err != nil {
		return err
	}
	release, err := n.sessions.close(ctx, rec.nqn())
	if err != nil {
		return err
	}
	defer release()
	if !n.sessionShared(rec) {
		if err := n.Fabric.Disconnect(ctx, rec.nqn()); err != nil {
			return fmt.Errorf("volume %s: %w", rec.Stage.VolumeID, err)
		}
	}
	return n.records.Delete(rec.Stage.VolumeID)
}

// bury clears away a generation that has ended: a newer one was given to this
// node, which the storage host does only after the old one was withdrawn. What
// was queued or cached for the old one has no right to land anywhere. The record
// stays until that of the newer generation replaces it: without any, a publish
// that is repeated after a crash would be one of a volume that is not staged.
func (n *Node) bury(ctx context.Context, rec Record) error {
	n.Log.Warn("clearing away a withdrawn publication", "volume", rec.Stage.VolumeID, "generation", rec.Stage.Attachment.Generation(), "disk", rec.Disk)
	if err := n.dropWithdrawn(ctx, &rec); err != nil {
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
	if rec.Table == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, buryTime)
	defer cancel()
	if err := n.Guards.Remove(ctx, rec.Table); err != nil {
		// Dead and of no name that the newer generation would want: the watch
		// removes it when whoever has it open lets go.
		n.Log.Warn("something still has a withdrawn volume open", "volume", rec.Stage.VolumeID, "table", rec.Table, "err", err)
	}
	return nil
}

// buryTime is how long a withdrawn volume may be held open by what is ending.
const buryTime = 2 * time.Second

// dropWithdrawn makes the kernel let go of a device whose publication has
// ended, so that nothing waits for it any longer. The session is disconnected
// only if none of its volumes wants to live; otherwise the kernel finds out
// that the namespace is gone when it reconnects, and the others are not
// disturbed.
func (n *Node) dropWithdrawn(ctx context.Context, rec *Record) error {
	if err := n.end(rec, Withdrawn); err != nil {
		return err
	}
	alone, err := n.disconnectIfDead(ctx, *rec)
	if alone || err != nil {
		return err
	}
	return n.awaitWithdrawal(ctx, *rec)
}

// disconnectIfDead disconnects the session of rec unless another of its volumes
// wants to live, and keeps stages out meanwhile: one that begins after the look
// at the records would lose its session.
func (n *Node) disconnectIfDead(ctx context.Context, rec Record) (dead bool, err error) {
	release, err := n.sessions.close(ctx, rec.nqn())
	if err != nil {
		return false, err
	}
	defer release()
	others := n.wanting(ctx, rec)
	if len(others) > 0 {
		return false, n.freeBelow(ctx, rec, others)
	}
	if err := n.awaitSilence(ctx, rec); err != nil {
		return false, err
	}
	return true, n.Fabric.Disconnect(ctx, rec.nqn())
}

// wanting returns the other volumes of the session of rec that want to live.
func (n *Node) wanting(ctx context.Context, rec Record) (others []Record) {
	for _, o := range n.records.All() {
		if o.Stage.VolumeID != rec.Stage.VolumeID && o.nqn() == rec.nqn() && o.Ended == NotEnded && !n.withdrawn(ctx, o) {
			others = append(others, o)
		}
	}
	return others
}

// askTime bounds a question to an agent that may be as far away as the disk.
const askTime = 3 * time.Second

// withdrawn says whether the agent says, positively, that the publication of
// rec has ended. No answer is no.
func (n *Node) withdrawn(ctx context.Context, rec Record) bool {
	ended, err := n.ended(ctx, rec)
	return err == nil && ended
}

// ended asks the agent whether the publication of rec has ended. A static
// volume's never does.
func (n *Node) ended(ctx context.Context, rec Record) (bool, error) {
	if rec.Stage.Attachment.Managed == nil {
		return false, nil
	}
	st, err := n.status(ctx, rec)
	return err == nil && st.Ended, err
}

// status is the agent's word on a publication.
func (n *Node) status(ctx context.Context, rec Record) (volume.PublicationStatus, error) {
	m := rec.Stage.Attachment.Managed
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	agent, err := n.Authorities(m.Host)
	if err != nil {
		return volume.PublicationStatus{}, err
	}
	return agent.Status(ctx, m.Ref)
}

// awaitWithdrawal waits until the kernel has seen that the namespace is no
// longer there: at once on a live session, after the reconnect on another. The
// other volumes of the session must not be disturbed for it.
func (n *Node) awaitWithdrawal(ctx context.Context, rec Record) error {
	if err := n.Fabric.EnsureSession(ctx, rec.Stage.Attachment.Session); err != nil {
		return err
	}
	return until(ctx, "the kernel still has the withdrawn namespace of "+rec.Disk, func() (bool, error) {
		s, err := n.Sysfs.SessionOf(rec.nqn(), rec.Identity().NSID)
		if err != nil {
			return false, err
		}
		_, err = initiator.Match(s, rec.Identity())
		return err != nil, nil
	})
}
