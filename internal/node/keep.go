package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// What is in this file is for the watch: the few acts on a volume's behalf that
// have to know of the calls that may be under way.

// Restore gives a session that volumes still want one attempt to connect what is
// missing of it. A last unstage that is taking the session down goes first; then
// the error wraps volume.ErrPrecondition.
func (n *Node) Restore(ctx context.Context, s initiator.Session) error {
	release, err := n.sessions.share(ctx, s.NQN)
	if err != nil {
		return err
	}
	defer release()
	if _, _, wanted := n.wanted(s.NQN); !wanted {
		return fmt.Errorf("session %s: no volume wants it any more: %w", s.NQN, volume.ErrPrecondition)
	}
	err = n.Fabric.Restore(ctx, s)
	n.makeRoom(ctx, s.NQN, err) // for the next time
	return err
}

// Rescan makes the kernel look for the namespaces of a session.
func (n *Node) Rescan(nqn string) error { return n.Fabric.Rescan(nqn) }

// Own tells other tools of the machine which controllers are ours.
func (n *Node) Own() { n.Fabric.Own() }

// Proof says, whenever it is asked, whether p is the device of a volume whose
// I/O is to go on.
func (n *Node) Proof(volumeID string, p guard.Path) guard.Proof {
	return func() error {
		rec, err := n.records.Get(volumeID)
		if err != nil {
			return err
		}
		return n.proof(rec, p)()
	}
}

// IsWithdrawn asks the storage host whether the publication of a volume has
// ended. Only a positive answer is one; err says why there is none. If it has not,
// the answer says where the volume is to be reached, too, and that is put on record.
func (n *Node) IsWithdrawn(ctx context.Context, volumeID string) (bool, error) {
	rec, err := n.records.Get(volumeID)
	if err != nil {
		return false, err
	}
	m := rec.Stage.Attachment.Managed
	if m == nil {
		return false, nil
	}
	st, err := n.status(ctx, rec)
	if err == nil && !st.Ended {
		n.learn(rec.nqn(), m.Host, st.Portals)
	}
	return err == nil && st.Ended, err
}

// End ends the waiting of one volume: its I/O fails from now on, and that of no
// other. A volume without a table of its own has only its session: that is
// disconnected if no other volume wants it, or else the error wraps
// volume.ErrPrecondition.
func (n *Node) End(ctx context.Context, volumeID string, why Ending) error {
	return n.endIf(ctx, volumeID, why, func(Record) bool { return true })
}

// EndGeneration is End of one publication: a newer one that has taken its place
// meanwhile goes on.
func (n *Node) EndGeneration(ctx context.Context, volumeID string, generation uint64, why Ending) error {
	return n.endIf(ctx, volumeID, why, func(r Record) bool { return r.Stage.Attachment.Generation() == generation })
}

// EndAgain goes on with the end of a publication that was begun and may have got
// stuck. What has not ended, or has been staged anew, goes on.
func (n *Node) EndAgain(ctx context.Context, volumeID string, generation uint64) error {
	return n.endIf(ctx, volumeID, NotEnded, func(r Record) bool {
		return r.Ended != NotEnded && r.Stage.Attachment.Generation() == generation
	})
}

// endIf ends the volume if its record, once nothing else is at it, is one that is
// meant.
func (n *Node) endIf(ctx context.Context, volumeID string, why Ending, meant func(Record) bool) error {
	release, err := n.volumes.Lock(volumeID, "end of waiting")
	if err != nil {
		return err
	}
	defer release()
	rec, err := n.records.Get(volumeID)
	if err != nil {
		return err
	}
	switch {
	case !meant(rec):
		return nil
	case rec.Ended != NotEnded && rec.Table != "":
		return n.endTable(ctx, rec, rec.Ended) // the first time may have got stuck half-way
	case rec.Ended != NotEnded:
		return nil
	}
	n.Log.Warn("the waiting of a volume ends: its I/O fails from now on", "volume", volumeID, "why", why, "table", rec.Table)
	if rec.Table != "" {
		return n.endTable(ctx, rec, why)
	}
	dead, err := n.disconnectIfDead(ctx, rec)
	if err != nil {
		return err
	}
	if !dead {
		return fmt.Errorf("volume %s has no table of its own (guard kernel) and its session has other volumes: its waiting cannot be ended alone: %w", volumeID, volume.ErrPrecondition)
	}
	return n.end(&rec, why)
}

// endTable ends what waits in the table, and what was sent below before the path
// was taken out: that waits there until the session is back or gone.
func (n *Node) endTable(ctx context.Context, rec Record, why Ending) error {
	err := n.end(&rec, why)
	if err != nil && !errors.Is(err, volume.ErrBusy) {
		return err
	}
	// What is at the table may be waiting for just that.
	_, dead := n.disconnectIfDead(ctx, rec)
	return errors.Join(err, dead)
}
