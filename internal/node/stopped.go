package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// What is in this file is about file systems that have stopped: they met an error
// that they do not survive, and refuse to work on a disk that may be well again.
// Only a new mount makes them work, and for that every old one has to go.

// errors is how many errors the file system of rec has met so far, or had met
// when it was mounted if more cannot be known now. The path is live.
func (n *Node) errors(ctx context.Context, rec Record) (int, error) {
	if rec.Stage.FSType == "" || rec.Disk == "" {
		return 0, nil
	}
	path := rec.Stage.StagingPath
	count, known, err := glance(ctx, n, "errors "+path, func() (int, error) { return n.Flusher.Errors(rec.Kind(), rec.Disk, path) })
	if errors.Is(err, volume.ErrPending) {
		err = nil // the path has died since, and says more than this
	}
	if !known {
		count = rec.Errors
	}
	return count, err
}

// stopped says whether the file system of rec has stopped since it was mounted.
func (n *Node) stopped(ctx context.Context, rec Record) (bool, error) {
	count, err := n.errors(ctx, rec)
	return count > rec.Errors, err
}

// stoppedInUse is an error if pods still have the file system of rec, which has
// stopped: as long as one of them does, every mount shows the same dead one.
func (n *Node) stoppedInUse(rec Record) error {
	at, err := n.publishedAt(rec)
	if err != nil || len(at) == 0 {
		return err
	}
	return fmt.Errorf("volume %s: an I/O error has stopped its %s file system, and it is still mounted at %s: it is staged anew once what uses it there has ended: %w",
		rec.Stage.VolumeID, rec.Stage.FSType, at[0], volume.ErrUnavailable)
}
