package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-csi/holdfast/internal/dm"
	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// protect makes what keeps the volume's I/O waiting while its device is away,
// and puts on record what is to be mounted or shown.
func (n *Node) protect(ctx context.Context, rec *Record, ns nvmesysfs.Namespace, device string) error {
	rec.Found = initiator.Identity{NQN: ns.NQN, NSID: ns.NSID, UUID: ns.UUID, NGUID: ns.NGUID, SizeBytes: ns.SizeBytes, BlockSize: ns.BlockSize}
	table, err := n.wantsTable(*rec, ns)
	if err != nil {
		return err
	}
	if !table {
		rec.Disk, rec.Device, rec.Major, rec.Minor = ns.Disk, device, ns.Major, ns.Minor
		return nil
	}
	// The table is on record before it is there.
	rec.Table = guard.Name(rec.Stage.VolumeID, rec.Stage.Attachment.Generation())
	if err := n.records.Put(rec.Stage.VolumeID, *rec); err != nil {
		return err
	}
	p := guard.Path{Disk: ns.Disk, Node: device, Major: ns.Major, Minor: ns.Minor, SizeBytes: ns.SizeBytes}
	d, err := n.Guards.Ensure(ctx, rec.Table, p, ns.ReadOnly, n.proof(*rec, p))
	if err != nil {
		// As text: what the proof finds wrong would make this a final answer.
		return fmt.Errorf("%w: %v", volume.ErrPending, err)
	}
	rec.Disk, rec.Device, rec.Major, rec.Minor = d.Disk, d.Node, d.Major, d.Minor
	return nil
}

// keepDisk is how long a disk outlives its last path, in seconds. The kernel
// multiplies it by HZ, which is at most 1000, in 32 bits.
const keepDisk = (1<<31 - 1) / 1000

// wantsTable decides between the guards, and turns the kernel's on where it has
// one. A volume that has a table keeps it. A table is the default on every
// kernel: without one native multipath takes a flush that was cancelled with its
// path for one that was done (6.1 and 6.12; nvme_failover_req), and a power cut
// of the storage host then loses what fsync had promised.
func (n *Node) wantsTable(rec Record, ns nvmesysfs.Namespace) (bool, error) {
	if rec.Table != "" || rec.Stage.Attachment.Guard != GuardKernel {
		return true, nil
	}
	holds, err := n.Sysfs.SetDelayedRemoval(ns.Disk, keepDisk)
	if err == nil && !holds {
		n.Log.Warn("guard kernel, and this kernel deletes a disk with its last path: a volume whose disk it deletes is lost until it is staged again", "volume", rec.Stage.VolumeID)
	}
	return false, err
}

// proof looks again whether p is the volume of rec, and whether rec still
// stands for it.
func (n *Node) proof(rec Record, p guard.Path) guard.Proof {
	return func() error {
		now, err := n.records.Get(rec.Stage.VolumeID)
		if err != nil {
			return err
		}
		if now.Ended != NotEnded || now.Table != rec.Table {
			return fmt.Errorf("volume %s: its waiting has ended (%s): %w", rec.Stage.VolumeID, now.Ended, volume.ErrPrecondition)
		}
		ns, err := n.Sysfs.Disk(p.Disk)
		if err != nil {
			return fmt.Errorf("%w: %w", volume.ErrUnavailable, err)
		}
		if err := rec.Identity().Check(ns); err != nil {
			return err
		}
		if ns.Major != p.Major || ns.Minor != p.Minor {
			return fmt.Errorf("%s has another device number by now: %w", p.Disk, volume.ErrUnavailable)
		}
		return nil
	}
}

// guardedPath is path for a volume with a table: the device of the table is
// there as long as the table, and I/O goes on when the table sends it to a live
// path.
func (n *Node) guardedPath(s nvmesysfs.Snapshot, rec Record) (pathState, error) {
	t, err := n.Guards.State(rec.Table)
	if errors.Is(err, dm.ErrNotFound) {
		return pathGone, nil
	}
	if err != nil {
		return 0, err
	}
	// Of another number is one that was made since, and the record's number may
	// be that of another volume's table.
	if rec.Ended != NotEnded || rec.Disk != "" && (t.Major != rec.Major || t.Minor != rec.Minor) {
		return pathGone, nil
	}
	ns, err := initiator.Match(s, rec.Identity())
	if err == nil && !t.Suspended && t.On(guard.Path{Major: ns.Major, Minor: ns.Minor}) && anyLive(s, ns) {
		return pathLive, nil
	}
	return pathWaiting, nil
}

// unguard takes away what protect made, once nothing uses it.
func (n *Node) unguard(ctx context.Context, rec Record) error {
	if rec.Table != "" {
		return n.Guards.Remove(ctx, rec.Table)
	}
	if rec.Disk == "" {
		return nil
	}
	_, err := n.Sysfs.SetDelayedRemoval(rec.Disk, 0)
	return err
}

// end fails the I/O of one volume from now on. It is on record first.
func (n *Node) end(rec *Record, why Ending) error {
	rec.Ended = why
	if err := n.records.Put(rec.Stage.VolumeID, *rec); err != nil {
		return err
	}
	return n.failIfEnded(*rec)
}

// failIfEnded is asked again before anything waits for what uses the table: a
// crash may have come between the record and the act.
func (n *Node) failIfEnded(rec Record) error {
	if rec.Ended == NotEnded || rec.Table == "" {
		return nil
	}
	return n.Guards.GiveUp(rec.Table)
}
