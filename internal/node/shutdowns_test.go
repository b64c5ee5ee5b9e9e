package node_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/node/nodetest"
)

// inhibit is how long logind waits by default (InhibitDelayMaxSec).
const inhibit = 5 * time.Second

func (w *world) prepare() time.Duration {
	began := time.Now()
	w.node.PrepareShutdown(w.within(inhibit))
	return time.Since(began)
}

// two are a volume that is published and has unsynced data, and one more of
// another session, which is static.
func (w *world) two() (managed, static node.PublishRequest) {
	r := w.stageRequest(w.host.Create(size), "ext4")
	w.stage(r)
	managed = w.publishRequest(r, "one")
	w.publish(managed)
	static = w.static()
	w.write(managed.TargetPath, "managed")
	w.write(static.TargetPath, "static")
	return managed, static
}

// TestShutdownAllLive: everything is synced at once, and nothing else changes.
func TestShutdownAllLive(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		managed, static := w.two()
		before := w.look()
		w.proc.Strike(nodetest.Fault{})
		if took := w.prepare(); took > 0 {
			w.Errorf("took %v", took)
		}
		w.wantChanges("Sync", "Sync")
		w.wantView(before)
		for _, p := range []node.PublishRequest{managed, static} {
			w.machine.Vanish(p.Attachment.Session.NQN) // the network goes
			if w.node.Finite(p.Attachment.Session.NQN) {
				w.Error("a live session is to give up")
			}
		}
		if lost := w.machine.Lost(); lost != "" {
			w.Errorf("lost %q after the sync", lost)
		}
	})
}

// TestShutdownInAnOutage: what is away fails, so that its unmount ends; what is
// live goes on; and all of it in the time that there is.
func TestShutdownInAnOutage(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		away, live := w.two()
		nqn := away.Attachment.Session.NQN
		w.machine.Cut(nqn)
		w.machine.HoldBack(nqn)
		unmounted := make(chan error, 1)
		pod := w.machine.Start(nil)
		go func() { unmounted <- pod.Sync(away.TargetPath) }()
		synctest.Wait()
		if took := w.prepare(); took > inhibit {
			w.Errorf("took %v", took)
		}
		if err := <-unmounted; err == nil {
			w.Error("a sync of what was lost has succeeded")
		}
		w.wantState(away.VolumeID, node.Failed, "shut down")
		w.wantState(live.VolumeID, node.Connected, "")
		if !w.node.Finite(nqn) || w.node.Finite(live.Attachment.Session.NQN) {
			w.Error("which sessions give up is wrong")
		}
		if got := w.record(away.VolumeID).Ended; got != node.Shutdown {
			w.Errorf("on record: %q", got)
		}

		// It does not take place: the next call stages the volume anew.
		w.node.CancelShutdown()
		if w.node.Finite(nqn) {
			w.Error("the session still gives up")
		}
		w.machine.Heal(nqn)
		w.wantState(away.VolumeID, node.Failed, "shut down")
		w.unpublish(away)
		w.stage(away.StageRequest)
		w.publish(away)
		w.wantState(away.VolumeID, node.Connected, "")
	})
}

// TestShutdownBlip: what comes back within a moment is not given up but saved.
func TestShutdownBlip(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		p, _ := w.two()
		nqn := p.Attachment.Session.NQN
		w.machine.Cut(nqn)
		w.machine.HoldBack(nqn)
		time.AfterFunc(time.Second, func() { w.machine.Heal(nqn); w.feed() })
		w.prepare()
		w.wantState(p.VolumeID, node.Connected, "")
		w.machine.Vanish(nqn)
		if lost := w.machine.Lost(); lost != "" {
			w.Errorf("lost %q", lost)
		}
	})
}

// TestShutdownWithoutTables: the session gives up, by the watch's hand.
func TestShutdownWithoutTables(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		away, live := w.two()
		version := w.node.Version()
		w.machine.Cut(away.Attachment.Session.NQN)
		w.prepare()
		if !w.node.Finite(away.Attachment.Session.NQN) || w.node.Finite(live.Attachment.Session.NQN) {
			w.Error("which sessions give up is wrong")
		}
		if w.node.Version() == version {
			w.Error("the watch is not told")
		}
		if got := w.record(away.VolumeID).Ended; got != node.NotEnded {
			w.Errorf("on record: %q", got)
		}
	})
}

// TestShutdownWhileBusy: a call that is at the volume, and a disk that does not
// take the record, do not keep it waiting.
func TestShutdownWhileBusy(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		p, _ := w.two()
		nqn := p.Attachment.Session.NQN
		entered, open := w.proc.Hold("Unmount")
		done := make(chan error, 1)
		go func() { done <- w.node.Unpublish(w.ctx(), p.VolumeID, p.TargetPath) }()
		<-entered
		w.machine.Cut(nqn)
		w.machine.HoldBack(nqn)
		w.prepare()
		if got := w.machine.Tables(); !slices.Contains(got, "dm-0 over nvme0n1, failed, given up") {
			w.Errorf("tables %v", got)
		}
		open()
		w.must(<-done)
	})
}

// TestShutdownEnds: when the process ends with the machine, what lives is synced
// again, and afterwards a path that is lost is an error and no wait.
func TestShutdownEnds(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		p, other := w.two()
		w.prepare()
		w.write(p.TargetPath, " and more")
		w.node.FinishShutdown(w.within(10 * time.Second))
		if lost := w.machine.Lost(); lost != "" {
			w.Errorf("lost %q", lost)
		}
		w.write(other.TargetPath, " and later")
		for _, nqn := range []string{p.Attachment.Session.NQN, other.Attachment.Session.NQN} {
			if !w.machine.Limited(nqn) {
				w.Errorf("session %s waits for ever", nqn)
			}
			w.machine.Cut(nqn)
		}
		pod := w.machine.Start(nil)
		if err := pod.Unmount(other.TargetPath); err != nil {
			w.Error(err)
		}
		if err := pod.Unmount(other.StagingPath); err != nil {
			w.Error(err)
		}
	})
}

// TestRecordOfAShutdown: after the reboot nothing is left of it.
func TestRecordOfAShutdown(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		p, _ := w.two()
		w.machine.Cut(p.Attachment.Session.NQN)
		w.prepare()
		w.reboot()
		w.stage(p.StageRequest)
		w.publish(p)
		w.wantState(p.VolumeID, node.Connected, "")
	})
}
