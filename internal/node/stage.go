package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// rollbackTime bounds the clean-up after a refused stage; it does not depend
// on how much of the caller's time is left.
const rollbackTime = 15 * time.Second

// Stage makes a volume ready for use on this node: the session, the device
// with its identity proven, the file system, the mount. Called again it finds
// its own work and changes nothing.
func (n *Node) Stage(ctx context.Context, req StageRequest) error {
	if err := req.validate(); err != nil {
		return err
	}
	release, err := n.volumes.Lock(req.VolumeID, "stage")
	if err != nil {
		return err
	}
	defer release()
	begun, err := n.stage(ctx, req)
	if err != nil && begun != nil {
		return n.refuse(ctx, *begun, err)
	}
	return err
}

// stage returns, with an error, the record of what it has begun, or nil if it
// has begun nothing.
func (n *Node) stage(ctx context.Context, req StageRequest) (begun *Record, err error) {
	rec, err := n.records.Get(req.VolumeID)
	switch {
	case errors.Is(err, volume.ErrNotFound):
		rec = newRecord(req)
	case err != nil:
		return nil, err
	default:
		done, err := n.settle(ctx, &rec, req)
		if done || err != nil {
			return nil, err
		}
	}
	if err := n.records.Put(req.VolumeID, rec); err != nil {
		return nil, err
	}
	err = n.attach(ctx, &rec)
	return &rec, err
}

// settle compares what the record says with what is asked, and clears away
// what stands in the way. done means that the stage stands already.
func (n *Node) settle(ctx context.Context, rec *Record, req StageRequest) (done bool, err error) {
	have, want := rec.Stage.Attachment.Generation(), req.Attachment.Generation()
	switch {
	case have > want:
		return false, fmt.Errorf("volume %s: generation %d is staged and this call carries %d: it is out of date: %w", req.VolumeID, have, want, volume.ErrUnavailable)
	case have < want:
		if err := n.bury(ctx, *rec); err != nil {
			return false, unsettled(fmt.Errorf("volume %s: clear away ended generation %d: %w", req.VolumeID, have, err))
		}
	case rec.Phase == Unstaging || rec.Phase == Flushed:
		if err := n.unstage(ctx, *rec); err != nil {
			return false, unsettled(fmt.Errorf("volume %s: finish the unstage that was begun: %w", req.VolumeID, err))
		}
	case !sameStage(rec.Stage, req):
		return false, fmt.Errorf("volume %s is staged at %s as %q: unstage it before staging it differently: %w", req.VolumeID, rec.Stage.StagingPath, rec.Stage.FSType, volume.ErrExists)
	default:
		req = withPortals(*rec, req)
		if err := n.move(rec, req.Attachment.Session.Portals); err != nil {
			return false, unsettled(err)
		}
		done, err := n.resume(ctx, rec, req)
		return done, unsettled(err)
	}
	*rec = newRecord(req)
	return false, nil
}

// unsettled keeps an error from being final: what an earlier stage has left is
// still there, and after a final answer nobody would come for it.
func unsettled(err error) error {
	if rpcerr.Final(err) {
		return fmt.Errorf("%w: %v", volume.ErrPending, err)
	}
	return err
}

// resume looks at a stage of the same generation: whole, half-done or dead.
func (n *Node) resume(ctx context.Context, rec *Record, req StageRequest) (done bool, err error) {
	if rec.Phase == Staged {
		whole, err := n.stands(ctx, *rec)
		if whole || err != nil {
			return whole, err
		}
		n.Log.Warn("the stage of a volume is dead, staging it again", "volume", req.VolumeID, "disk", rec.Disk)
	}
	if err := n.failIfEnded(*rec); err != nil {
		return false, err
	}
	if err := n.unmountAll(ctx, rec.Stage.StagingPath, rec.Disk); err != nil {
		return false, err
	}
	if rec.Ended != NotEnded {
		// Its I/O fails for good, and so does a file system on it. A pod that still
		// has it ends in another call, which this one must not keep out.
		ctx, cancel := context.WithTimeout(ctx, buryTime)
		defer cancel()
		if err := n.unguard(ctx, *rec); err != nil {
			return false, err
		}
	}
	// The device stays on record: it may have unsaved data, and an unstage that
	// comes next has to wait for it.
	again := newRecord(req)
	again.Disk, again.Device, again.Major, again.Minor, again.Targets = rec.Disk, rec.Device, rec.Major, rec.Minor, rec.Targets
	again.LastTarget, again.Table, again.Found = rec.LastTarget, rec.Table, rec.Found
	if rec.Table != "" {
		again.Began = rec.Began // what waits in the table is of that stage
	}
	*rec = again
	return false, nil
}

// stands says whether the staged device is still that of the record and, for a
// file system, at work and mounted where it should be. It is an error if that has
// stopped and pods have it.
func (n *Node) stands(ctx context.Context, rec Record) (bool, error) {
	path, err := n.path(rec)
	if err != nil || path == pathGone {
		return false, err
	}
	if path == pathLive { // else that cannot be known now
		stopped, err := n.stopped(ctx, rec)
		if err != nil {
			return false, err
		}
		if stopped {
			return false, n.stoppedInUse(rec)
		}
	}
	if rec.Ended != NotEnded {
		return false, nil
	}
	if rec.Stage.FSType == "" {
		return true, nil
	}
	mounts, err := n.Mounter.Mounts()
	if err != nil {
		return false, err
	}
	m, ok := filesystem.MountedAt(mounts, rec.Stage.StagingPath)
	return ok && m.Major == rec.Major && m.Minor == rec.Minor, nil
}

// attach carries a stage from its record to the end.
func (n *Node) attach(ctx context.Context, rec *Record) error {
	at := rec.Stage.Attachment
	// Whoever takes the session down now has not seen this record; whoever comes
	// later will, and leaves the session alone. So it is enough to wait for those
	// under way, and a long mkfs or check of this volume holds up no unstage of
	// another.
	release, err := n.sessions.share(ctx, at.Session.NQN)
	if err != nil {
		return err
	}
	release()
	status := n.askAhead(ctx, rec.Stage)
	if err := n.reach(ctx, rec); err != nil {
		return fmt.Errorf("volume %s: %w", rec.Stage.VolumeID, err)
	}
	id := at.Identity
	if rec.Table != "" {
		id = rec.Identity() // what waits in the table is that device's
	}
	ns, device, err := n.Fabric.WaitNamespace(ctx, id)
	if err != nil {
		return fmt.Errorf("volume %s: %w", rec.Stage.VolumeID, err)
	}
	if err := n.bringUp(ctx, rec, ns, device, status); err != nil {
		return fmt.Errorf("volume %s: %w", rec.Stage.VolumeID, err)
	}
	if rec.Errors, err = n.errors(ctx, *rec); err != nil {
		return fmt.Errorf("volume %s: %w", rec.Stage.VolumeID, err)
	}
	rec.Phase = Staged
	return n.records.Put(rec.Stage.VolumeID, *rec)
}

// bringUp looks at the device itself, where what cannot be read is an error at
// once, and only then puts a table over it, where it would be waited for.
func (n *Node) bringUp(ctx context.Context, rec *Record, ns nvmesysfs.Namespace, device string, status <-chan statusAnswer) error {
	if rec.Stage.FSType == "" {
		return n.protect(ctx, rec, ns, device)
	}
	act, err := n.inspect(ctx, *rec, device, ns.SizeBytes, status)
	if err != nil {
		n.unusable.note(rec.Stage, err, time.Now())
		return err
	}
	if err := n.protect(ctx, rec, ns, device); err != nil {
		return err
	}
	// The device is on record before anything is mounted from it.
	if err := n.records.Put(rec.Stage.VolumeID, *rec); err != nil {
		return err
	}
	if err := n.prepare(ctx, *rec, act); err != nil {
		return err
	}
	err = n.mount(ctx, rec)
	n.unusable.note(rec.Stage, err, time.Now())
	return err
}

func (n *Node) mount(ctx context.Context, rec *Record) error {
	options := rec.Stage.MountOptions
	if rec.Stage.ReadOnly {
		options = append(slices.Clip(options), "ro") // the last word counts
	}
	return n.bounded.Do(ctx, "mount "+rec.Stage.StagingPath, func() error {
		return n.Mounter.MountDevice(rec.Device, rec.Stage.StagingPath, rec.Kind(), options)
	})
}

// refuse decides what is left after a stage that failed. An uncertain error
// keeps the record, because the kubelet will call again. A final one makes the
// kubelet forget the stage and never unstage it, so everything is taken back
// first; if that fails too, the answer must not be final.
func (n *Node) refuse(ctx context.Context, rec Record, cause error) error {
	if !rpcerr.Final(cause) {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
	defer cancel()
	if err := n.takeDown(ctx, rec); err != nil {
		return fmt.Errorf("%v; taking the stage back: %v: %w", cause, err, volume.ErrPending)
	}
	return cause
}
