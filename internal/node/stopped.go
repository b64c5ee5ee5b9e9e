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
	ctx, cancel := context.WithTimeout(ctx, statTime)
	defer cancel()
	path, found := rec.Stage.StagingPath, make(chan int, 1)
	err := n.bounded.Do(ctx, "errors "+path, func() error {
		count, err := n.Flusher.Errors(rec.Kind(), rec.Disk, path)
		found <- count
		return err
	})
	if errors.Is(err, volume.ErrPending) {
		return rec.Errors, nil // the path has died since, and says more than this
	}
	select {
	case count := <-found:
		return count, err
	default: // another caller's look was joined, and that caller took the count
		return rec.Errors, err
	}
}

// stopped says whether the file system of rec has stopped since it was mounted.
func (n *Node) stopped(ctx context.Context, rec Record) (bool, error) {
	count, err := n.errors(ctx, rec)
	return count > rec.Errors, err
}

// stoppedInUse is an error if the file system of rec has stopped and pods still
// have it mounted: as long as one of them does, every mount shows the same dead
// file system.
func (n *Node) stoppedInUse(ctx context.Context, rec Record) error {
	p, err := n.path(rec)
	if err != nil || p != pathLive {
		return err
	}
	stopped, err := n.stopped(ctx, rec)
	if err != nil || !stopped {
		return err
	}
	at, err := n.publishedAt(rec)
	if err != nil || len(at) == 0 {
		return err
	}
	return fmt.Errorf("volume %s: an I/O error has stopped its %s file system, and it is still mounted at %s: it is staged anew once what uses it there has ended: %w",
		rec.Stage.VolumeID, rec.Stage.FSType, at[0], volume.ErrUnavailable)
}
