package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// pathState is what sysfs says of the way to a staged device. It is read
// without touching the device.
type pathState int

const (
	// pathLive: the device is there and a controller to it is live.
	pathLive pathState = iota
	// pathWaiting: the device is there, no controller is live; I/O waits.
	pathWaiting
	// pathGone: the kernel has deleted the device, or another has its name.
	pathGone
)

// path looks at the device that rec staged.
func (n *Node) path(rec Record) (pathState, error) {
	s, err := n.Sysfs.SessionOf(rec.nqn(), rec.Identity().NSID)
	if err != nil {
		return 0, fmt.Errorf("session %s: %w", rec.nqn(), err)
	}
	if rec.Table != "" {
		return n.guardedPath(s, rec)
	}
	return pathOf(s, rec), nil
}

func pathOf(s nvmesysfs.Snapshot, rec Record) pathState {
	for _, ns := range s.Namespaces {
		if !isRecorded(ns, rec) {
			continue
		}
		if anyLive(s, ns) {
			return pathLive
		}
		return pathWaiting
	}
	return pathGone
}

// anyLive says whether a controller with a path to ns is live.
func anyLive(s nvmesysfs.Snapshot, ns nvmesysfs.Namespace) bool {
	return slices.ContainsFunc(s.Controllers, func(c nvmesysfs.Controller) bool {
		return c.Live() && slices.Contains(ns.Controllers, c.Name)
	})
}

// isRecorded compares name, device number and identity: any one alone may be
// that of another volume by now.
func isRecorded(ns nvmesysfs.Namespace, rec Record) bool {
	id := rec.Stage.Attachment.Identity
	return ns.Disk == rec.Disk && ns.Major == rec.Major && ns.Minor == rec.Minor && (id.NSID == 0 || ns.NSID == id.NSID)
}

// pollEvery is how often the node looks again at something that the kernel
// announces to nobody.
const pollEvery = 10 * time.Millisecond

// until polls ok until it holds or ctx ends; what says what was waited for.
func until(ctx context.Context, what string, ok func() (bool, error)) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		done, err := ok()
		if err != nil {
			return err
		}
		if done {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (%w)", what, volume.ErrPending, ctx.Err())
		}
	}
}

// unmountAll takes away everything mounted at path, bounded by ctx.
func (n *Node) unmountAll(ctx context.Context, path, disk string) error {
	for {
		mounts, err := n.Mounter.Mounts()
		if err != nil {
			return err
		}
		if _, ok := filesystem.MountedAt(mounts, path); !ok {
			return nil
		}
		if err := n.bounded.Do(ctx, unmountKey(path, disk), func() error { return n.Mounter.Unmount(path) }); err != nil {
			return err
		}
	}
}

// unmountKey names the unmounts of one path. Of is what was mounted there: an
// unmount that hangs must not stand for that of another device.
func unmountKey(path, of string) string { return "unmount " + path + " of " + of }

// superblockGone waits until the file system on the record's device is dead:
// only then has an unmount written everything.
func (n *Node) superblockGone(ctx context.Context, rec Record) error {
	if rec.Stage.FSType == "" || rec.Disk == "" {
		return nil
	}
	return until(ctx, fmt.Sprintf("the %s file system on %s is still being written or is still used", rec.Stage.FSType, rec.Disk), func() (bool, error) {
		if p, err := n.path(rec); err != nil || p == pathGone {
			return p == pathGone, err
		}
		return n.Flusher.SuperblockGone(rec.Kind(), rec.Disk)
	})
}

// sessionShared says whether another volume's record uses the session of rec.
func (n *Node) sessionShared(rec Record) bool {
	for _, o := range n.records.All() {
		if o.Stage.VolumeID != rec.Stage.VolumeID && o.nqn() == rec.nqn() {
			return true
		}
	}
	return false
}

var _ fabric = (*initiator.Host)(nil)
