package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/internal/pause"
)

// What is in this file is for the end of the machine: after it nobody feeds a
// table, and the network may go before the file systems do. Whoever calls knows
// that the end is near; a plugin that is only stopped calls nothing.

const (
	// blip is how long a volume that is unreachable when the shutdown begins may
	// still come back before it is given up.
	blip = 2 * time.Second
	// lastLoss is what a session may take to come back after the plugin has gone.
	lastLoss = 5 // seconds
	// atOnce is how many file systems are synced at the same time.
	atOnce = 16
)

// fate is what a shutdown does with a volume.
type fate int

const (
	leaveIt fate = iota
	saveIt       // live: everything written is brought to the storage host
	failIt       // unreachable: its table fails what waits
	limitIt      // unreachable, and the kernel alone keeps it: its session gives up
)

// fateOf is a pure function.
func fateOf(r Record, p pathState) fate {
	switch {
	case r.Ended != NotEnded || p == pathGone || r.Phase == Staging && r.Table == "":
		return leaveIt // nothing waits
	case p == pathLive && (r.Phase == Staged || r.Phase == Unstaging):
		return saveIt
	case p == pathLive:
		return leaveIt
	case r.Table != "":
		return failIt
	default:
		return limitIt
	}
}

// fates looks at all volumes. One that cannot be looked at is left as it is.
func (n *Node) fates() map[fate][]Record {
	out := map[fate][]Record{}
	for _, r := range n.Records() {
		p, err := n.path(r)
		if err != nil {
			n.Log.Warn("a volume is left as it is at the shutdown", "volume", r.Stage.VolumeID, "err", err)
			continue
		}
		f := fateOf(r, p)
		out[f] = append(out[f], r)
	}
	return out
}

// PrepareShutdown is for the moment in which the machine is about to go down and
// still has its network. What lives is synced and goes on. What is unreachable
// gets a moment to come back, and then fails: no unmount waits for it any more.
// It returns when ctx ends at the latest.
func (n *Node) PrepareShutdown(ctx context.Context) {
	now := n.fates()
	saved := map[string]bool{}
	var saving sync.WaitGroup
	n.save(ctx, &saving, now[saveIt], saved)
	away := len(now[failIt]) + len(now[limitIt])
	for end := time.Now().Add(patience(ctx)); away > 0 && time.Now().Before(end) && pause.For(ctx, 100*time.Millisecond); {
		now = n.fates()
		away = len(now[failIt]) + len(now[limitIt])
	}
	n.save(ctx, &saving, now[saveIt], saved) // what has come back
	n.finish(ctx, now)
	saving.Wait()
	n.Log.Info("the node is about to shut down", "synced", len(saved), "given up", away)
}

// patience is half of what ctx leaves, and no more than a blip.
func patience(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return blip
	}
	return min(blip, time.Until(end)/2)
}

// finish makes the waiting of what is unreachable finite: of a volume with a table
// by the table, at once; and of what was sent below it, and of a volume without one,
// by the session, which nobody wants to wait for any more.
func (n *Node) finish(ctx context.Context, now map[fate][]Record) {
	away := slices.Concat(now[failIt], now[limitIt])
	n.setFinite(away) // first: or the watch might have one wait again that no record says to be ended
	var ending sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, r := range now[failIt] {
		ending.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := n.endNow(ctx, r); err != nil {
				n.Log.Error("a volume still waits for its storage host, and the shutdown may wait for it", "volume", r.Stage.VolumeID, "err", err)
			}
		})
	}
	ending.Wait()
	for _, r := range away {
		n.Log.Warn("the node shuts down and the storage host does not answer: what was written to the volume and never synced is lost, and what is written now fails",
			"volume", r.Stage.VolumeID, "table", r.Table, "published", len(r.Targets))
	}
}

// endNow has it on record first, as always; but a disk that hangs, or a call that is
// at the volume and may be the very unmount that hangs, does not keep it waiting.
// The reboot makes the record worthless anyway.
func (n *Node) endNow(ctx context.Context, r Record) error {
	short, cancel := context.WithTimeout(ctx, patience(ctx))
	defer cancel()
	err := n.bounded.Do(short, "end "+r.Stage.VolumeID, func() error { return n.endAtShutdown(r.Stage.VolumeID) })
	if err == nil {
		return nil
	}
	n.Log.Warn("the end of a volume could not be put on record", "volume", r.Stage.VolumeID, "err", err)
	return n.Guards.GiveUp(r.Table)
}

func (n *Node) endAtShutdown(volumeID string) error {
	release, err := n.volumes.Lock(volumeID, "shutdown")
	if err != nil {
		return err
	}
	defer release()
	rec, err := n.records.Get(volumeID)
	if err != nil || rec.Ended != NotEnded {
		return err
	}
	return n.end(&rec, Shutdown)
}

// save syncs volumes that are live, but for those that were begun with before.
func (n *Node) save(ctx context.Context, wg *sync.WaitGroup, live []Record, begun map[string]bool) {
	slots := make(chan struct{}, atOnce)
	for _, r := range live {
		if begun[r.Stage.VolumeID] {
			continue
		}
		begun[r.Stage.VolumeID] = true
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := n.saveOne(ctx, r); err != nil {
				n.Log.Warn("a volume could not be synced before the shutdown", "volume", r.Stage.VolumeID, "err", err)
			}
		})
	}
}

func (n *Node) saveOne(ctx context.Context, r Record) error {
	if path := r.Stage.StagingPath; r.Stage.FSType != "" {
		return n.bounded.Do(ctx, "sync "+path, func() error { return n.Flusher.Sync(path) })
	}
	return n.bounded.Do(ctx, "flush "+r.Device, func() error { return n.Flusher.FlushDevice(r.Device) })
}

// FinishShutdown is for the moment in which this process ends with the machine.
// What lives is synced once more and goes on for as long as its path is there; but
// nothing waits for a path any more, because nobody will put it back.
func (n *Node) FinishShutdown(ctx context.Context) {
	now := n.fates()
	var saving sync.WaitGroup
	half, cancel := context.WithTimeout(ctx, patience(ctx))
	n.save(half, &saving, now[saveIt], map[string]bool{})
	saving.Wait()
	cancel()
	now = n.fates()
	n.finish(ctx, now)
	var sessions []string
	for _, r := range slices.Concat(now[saveIt], now[leaveIt], now[failIt], now[limitIt]) {
		if err := n.stopWaiting(r); err != nil {
			n.Log.Error("a volume will wait for its storage host, and the shutdown may wait for it", "volume", r.Stage.VolumeID, "err", err)
		}
		if !slices.Contains(sessions, r.nqn()) {
			sessions = append(sessions, r.nqn())
		}
	}
	for _, nqn := range sessions {
		// What a table sends below after the network has gone waits there.
		if err := n.Fabric.Limit(nqn, lastLoss); err != nil {
			n.Log.Error("a session will wait for its storage host, and the shutdown may wait for it", "nqn", nqn, "err", err)
		}
	}
	n.Log.Info("the node shuts down: from now on I/O fails when a path is lost", "synced", len(now[saveIt]), "sessions", len(sessions))
}

// stopWaiting also repeats an end that another call was in the way of.
func (n *Node) stopWaiting(r Record) error {
	switch {
	case r.Table == "":
		return nil
	case r.Ended != NotEnded:
		return n.Guards.GiveUp(r.Table)
	default:
		return n.Guards.StopQueueing(r.Table)
	}
}

// CancelShutdown is for a shutdown that does not take place. What was failed says
// so, and is staged again by the next call; all else is as it was.
func (n *Node) CancelShutdown() {
	n.setFinite(nil)
	n.Log.Info("the node does not shut down after all")
}

// Finite says whether the waiting of a session is to be made short.
func (n *Node) Finite(nqn string) bool {
	n.finite.mu.Lock()
	defer n.finite.mu.Unlock()
	return n.finite.sessions[nqn]
}

// finite are the sessions that were unreachable when a shutdown began.
type finite struct {
	mu       sync.Mutex
	sessions map[string]bool // by NQN; guarded by mu
}

func (n *Node) setFinite(records []Record) {
	n.finite.mu.Lock()
	n.finite.sessions = map[string]bool{}
	for _, r := range records {
		n.finite.sessions[r.nqn()] = true
	}
	n.finite.mu.Unlock()
	n.records.tell()
}
