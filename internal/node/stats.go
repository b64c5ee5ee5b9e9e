package node

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// statTime bounds one look at a file system: a path may die between the look
// at sysfs and the look at the disk.
const statTime = 2 * time.Second

// State is what the path to a volume is like.
type State string

// The states. Reconnecting is an outage: I/O waits and nothing is lost, and so
// it does while something else stands where the volume should be (Refused), for a
// while after the volume was taken from this node (Fenced), and while a static volume
// is not attached to it (Detached).
// Lost means that the kernel has deleted the device, Ended that waiting was ended.
const (
	Connected    State = "Connected"
	Reconnecting State = "Reconnecting"
	Refused      State = "Refused"
	Fenced       State = "Fenced"
	Detached     State = "Detached"
	Lost         State = "Lost"
	Failed       State = "Failed"
)

// Condition is a state in words.
type Condition struct {
	State   State
	Message string
	// Held: whose the volume is has to be known before anything is done with it.
	Held bool
}

var conditions = map[pathState]Condition{
	pathLive:    {State: Connected, Message: "connected"},
	pathWaiting: {State: Reconnecting, Message: "reconnecting: the storage host does not answer, I/O waits and nothing is lost"},
	pathGone:    {State: Lost, Message: "lost: the kernel has deleted the device; what was synced is safe, and the pod has to be started again"},
}

var endingTexts = map[Ending]string{
	Withdrawn: "withdrawn: the volume was taken from this node; its I/O fails, so that what uses it can end",
	Expired:   "failed: the outage lasted longer than ctrlLossTmo; the pod has to be started again",
	Shutdown:  "failed: the node was about to shut down and the storage host did not answer; the pod has to be started again",
	Abandoned: "abandoned: the volume was given up by hand; its I/O fails until it is staged again",
}

// Condition reads sysfs, the table and, over a live path, how the file system is.
func (n *Node) Condition(ctx context.Context, volumeID string) (Condition, error) {
	rec, err := n.records.Get(volumeID)
	if err != nil {
		return Condition{}, err
	}
	if rec.Ended != NotEnded {
		return Condition{State: Failed, Message: endingTexts[rec.Ended]}, nil
	}
	p, err := n.path(rec)
	if err != nil || p != pathLive || rec.Phase != Staged {
		return conditions[p], err
	}
	stopped, err := n.stopped(ctx, rec)
	if stopped {
		return Condition{State: Failed, Message: fmt.Sprintf("failed: an I/O error has stopped the %s file system; what was synced before is safe, and the pod has to be started again", rec.Stage.FSType)}, err
	}
	return conditions[p], err
}

// Stats is the fill of a published volume, looked at without waiting for it:
// sysfs first, and the file system only over a live path and for two seconds
// at most. Usage is nil while the path is away; for a block volume only
// TotalBytes is set.
func (n *Node) Stats(ctx context.Context, volumeID, path string) (usage *filesystem.Usage, err error) {
	rec, err := n.records.Get(volumeID)
	if err != nil {
		return nil, err
	}
	if is, err := n.isAt(rec, path); err != nil {
		return nil, err
	} else if !is {
		return nil, fmt.Errorf("volume %s is not at %s: %w", volumeID, path, volume.ErrNotFound)
	}
	p, err := n.path(rec)
	switch {
	case err != nil:
		return nil, err
	case p != pathLive:
		return usage, nil
	case rec.Stage.FSType == "":
		return &filesystem.Usage{TotalBytes: rec.Stage.Attachment.Identity.SizeBytes}, nil
	}
	return n.usage(ctx, path), nil
}

// isAt says whether a volume is to be seen at a path. For a block volume the kubelet
// asks with a path that it made itself, of what was published to it (kubelet,
// pkg/volume/util/volumepathhandler: volumeDevices/PV/dev/POD).
func (n *Node) isAt(rec Record, path string) (bool, error) {
	if _, published := rec.Targets[path]; published || path == rec.Stage.StagingPath {
		return true, nil
	}
	if rec.Stage.FSType != "" {
		return false, nil
	}
	mounts, err := n.Mounter.Mounts()
	if err != nil {
		return false, err
	}
	m, mounted := filesystem.MountedAt(mounts, path)
	return mounted && isOf(m, rec), nil
}

func (n *Node) usage(ctx context.Context, path string) *filesystem.Usage {
	u, known, err := glance(ctx, n, "statfs "+path, func() (filesystem.Usage, error) { return n.Flusher.Stat(path) })
	if err != nil {
		n.Log.Warn("no usage of a volume: its file system does not answer", "path", path, "err", err)
	}
	if !known {
		return nil
	}
	return &u
}

// glance looks at a file system, for statTime at most. It is not known what was
// found if that failed, or if another caller's look was joined: that one has it.
func glance[T any](ctx context.Context, n *Node, what string, look func() (T, error)) (found T, known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, statTime)
	defer cancel()
	result := make(chan T, 1)
	err = n.bounded.Do(ctx, what, func() error {
		found, err := look()
		result <- found
		return err
	})
	if err != nil {
		return found, false, err
	}
	select {
	case found = <-result:
		return found, true, nil
	default:
		return found, false, nil
	}
}
