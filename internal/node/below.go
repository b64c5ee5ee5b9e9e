package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/pause"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// What is in this file ends I/O that an ended volume has sent below its table,
// where the table cannot call it back. Whoever sent it cannot be killed before.

// freeBelow ends what waits at the disk because it was sent there before the
// table held it back: until the session is back or gone. So a session that is
// down is disconnected for it, if all others that want it have tables: those hold
// their I/O until the watch has connected it again, as after any other disconnect.
func (n *Node) freeBelow(ctx context.Context, rec Record, others []Record) error {
	if rec.Table == "" || slices.ContainsFunc(others, func(o Record) bool { return o.Table == "" }) {
		return nil
	}
	stuck, err := n.stuckBelow(ctx, rec)
	if err != nil || !stuck {
		return err
	}
	n.Log.Warn("I/O of an ended volume waits for a session that is down: it is disconnected, and connected again for the others", "volume", rec.Stage.VolumeID, "nqn", rec.nqn(), "others", len(others))
	return n.Fabric.Disconnect(ctx, rec.nqn())
}

// stuckTime is how long I/O may take to fail in a table that was given up.
const stuckTime = time.Second

// stuckBelow says whether the table of rec, which was given up, keeps I/O while
// no controller is live to take it.
func (n *Node) stuckBelow(ctx context.Context, rec Record) (bool, error) {
	for end := time.Now().Add(stuckTime); ; {
		waits, live, err := n.below(rec)
		if err != nil || !waits || live {
			return false, err
		}
		if !time.Now().Before(end) {
			return true, nil
		}
		if err := lookAgain(ctx, rec); err != nil {
			return false, err
		}
	}
}

// silentTime bounds how long a live controller is waited for. It is more than the
// keep-alive of any session of our own pools takes to find out.
const silentTime = 45 * time.Second

// awaitSilence waits, before a session is disconnected, while rec has I/O under
// way at a controller that is live. Either it ends soon; or the path is silent and
// that was not noticed yet: the kernel would delete such a controller without
// ever noticing, and keep its I/O for another 30 s and more. The keep-alive finds
// out sooner, and then all of it fails.
func (n *Node) awaitSilence(ctx context.Context, rec Record) error {
	for end := time.Now().Add(silentTime); time.Now().Before(end); {
		waits, live, err := n.below(rec)
		if err != nil || !waits || !live {
			return err
		}
		if err := lookAgain(ctx, rec); err != nil {
			return err
		}
	}
	return nil
}

// below says whether I/O of rec waits or is under way, and whether a controller
// of its session is live.
func (n *Node) below(rec Record) (waits, live bool, err error) {
	if rec.Disk == "" {
		return false, false, nil
	}
	inflight, err := n.Sysfs.Inflight(rec.Disk)
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	if err != nil || inflight == 0 {
		return false, false, err
	}
	s, err := n.Sysfs.SessionOf(rec.nqn(), rec.Identity().NSID)
	return true, slices.ContainsFunc(s.Controllers, nvmesysfs.Controller.Live), err
}

// lookAgain is between two looks at what is below.
func lookAgain(ctx context.Context, rec Record) error {
	if !pause.For(ctx, pollEvery) {
		return fmt.Errorf("volume %s: its I/O is still under way: %w (%w)", rec.Stage.VolumeID, volume.ErrPending, ctx.Err())
	}
	return nil
}
