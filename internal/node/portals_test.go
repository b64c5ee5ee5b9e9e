package node_test

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/node/nodetest"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

var (
	oldPortal = nodetest.Portal(1)
	newPortal = nodetest.Portal(2)
)

func (w *world) wantPortals(volumeID string, want ...netip.AddrPort) {
	w.Helper()
	if got := w.record(volumeID).Stage.Attachment.Session.Portals; !cmp.Equal(want, got, cmpopts.EquateComparable(netip.AddrPort{})) {
		w.Errorf("portals on record: %v, want %v", got, want)
	}
}

func (w *world) wantPaths(nqn string, want ...string) {
	w.Helper()
	if diff := cmp.Diff(want, w.machine.Paths(nqn)); diff != "" {
		w.Errorf("controllers (-want +got):\n%s", diff)
	}
}

// static is a static volume that is published.
func (w *world) static() node.PublishRequest {
	w.Helper()
	at, m := w.host.Static(size)
	w.must(m.Format("ext4"))
	r := node.StageRequest{VolumeID: "static", StagingPath: w.staging("static"), FSType: "ext4", Attachment: at}
	w.stage(r)
	p := w.publishRequest(r, "pod")
	w.publish(p)
	return p
}

// TestStaticMoves: a call with other addresses is the same stage. The old path
// stays until the volume is proven over the new one; nothing is mounted anew.
func TestStaticMoves(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(w *world, p node.PublishRequest){
		"stage":   func(w *world, p node.PublishRequest) { w.stage(p.StageRequest) },
		"publish": func(w *world, p node.PublishRequest) { w.publish(p) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				p := w.static()
				nqn := p.Attachment.Session.NQN
				before := w.look()
				p.Attachment.Session.Portals = []netip.AddrPort{newPortal}
				w.proc.Strike(nodetest.Fault{})
				call(w, p)
				w.wantChanges()
				w.wantPortals(p.VolumeID, newPortal)
				w.wantPaths(nqn, "nvme0 10.0.0.2:4420")

				w.machine.SetDark(newPortal, true)
				if err := w.node.Restore(w.within(time.Second), p.Attachment.Session); err == nil {
					w.Error("connected to nothing")
				}
				w.must(w.node.Retire(w.ctx(), nqn))
				w.wantPaths(nqn, "nvme0 10.0.0.2:4420")

				w.machine.SetDark(newPortal, false)
				w.must(w.node.Restore(w.ctx(), p.Attachment.Session))
				w.must(w.node.Retire(w.ctx(), nqn))
				w.wantPaths(nqn, "nvme100 10.0.0.3:4420")
				w.write(p.TargetPath, "over the new path")
				w.restart()
				w.wantPortals(p.VolumeID, newPortal)
				if diff := cmp.Diff(before, w.look()); diff != "" {
					w.Errorf("-before +after:\n%s", diff)
				}
				w.unpublish(p)
				w.unstage(p.StageRequest)
			})
		})
	}
}

// TestPortalsAreTheSessions: as long as one volume wants an address the session
// keeps it.
func TestPortalsAreTheSessions(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		a, b := w.stageRequest(w.host.Create(size), "ext4"), w.stageRequest(w.host.Create(size), "ext4")
		a.Attachment.Managed, b.Attachment.Managed = nil, nil
		a.Attachment.FormatZeroed, b.Attachment.FormatZeroed = true, true
		w.stage(a)
		w.stage(b)
		nqn := a.Attachment.Session.NQN
		a.Attachment.Session.Portals = []netip.AddrPort{newPortal}
		w.stage(a)
		w.must(w.node.Restore(w.ctx(), a.Attachment.Session))
		w.must(w.node.Retire(w.ctx(), nqn))
		w.wantPaths(nqn, "nvme0 10.0.0.2:4420", "nvme100 10.0.0.3:4420")
		w.unstage(b)
		w.must(w.node.Retire(w.ctx(), nqn))
		w.wantPaths(nqn, "nvme100 10.0.0.3:4420")
	})
}

// TestManagedMoves: the agent's word counts, for all volumes of the session, and
// not what a call brings that may be old.
func TestManagedMoves(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		a, b := w.stageRequest(w.host.Create(size), "ext4"), w.stageRequest(w.host.Create(size), "")
		w.stage(a)
		w.stage(b)
		for _, said := range [][]string{nil, {oldPortal.String()}, {"not an address"}, {"0.0.0.0:4420"}, {"10.0.0.9:0"}} {
			w.host.Say(said...)
			w.notWithdrawn(a)
			w.wantPortals(a.VolumeID, oldPortal)
		}
		w.host.Say(newPortal.String())
		w.notWithdrawn(a)
		w.wantPortals(a.VolumeID, newPortal)
		w.wantPortals(b.VolumeID, newPortal)
		w.stage(a) // with the publish context of old
		w.publish(w.publishRequest(a, "pod"))
		w.wantPortals(a.VolumeID, newPortal)

		w.host.SetSilent(true)
		if _, err := w.node.IsWithdrawn(w.ctx(), a.VolumeID); err == nil {
			w.Error("an answer of nobody")
		}
		w.wantPortals(a.VolumeID, newPortal)
	})
}

func (w *world) notWithdrawn(r node.StageRequest) {
	w.Helper()
	if ended, err := w.node.IsWithdrawn(w.ctx(), r.VolumeID); ended || err != nil {
		w.Errorf("ended %v, %v", ended, err)
	}
}

// TestMoveWaitsForCalls: the record is another call's while that is at it.
func TestMoveWaitsForCalls(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		a := w.stageRequest(w.host.Create(size), "")
		w.stage(a)
		w.host.Say(newPortal.String())
		entered, open := w.proc.Hold("FlushDevice")
		done := make(chan error, 1)
		go func() { done <- w.node.Unstage(w.ctx(), a.VolumeID, a.StagingPath) }()
		<-entered
		w.notWithdrawn(a)
		w.wantPortals(a.VolumeID, oldPortal)
		open()
		w.must(<-done)
		w.wantView(nothing)
	})
}

// TestStageAtStaleAddress: a publish context that is older than the storage
// host's address is no obstacle, if the agent answers.
func TestStageAtStaleAddress(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		w.machine.SetDark(oldPortal, true)
		w.host.Say(newPortal.String())
		r := w.stageRequest(w.host.Create(size), "ext4")
		w.stage(r)
		w.wantPortals(r.VolumeID, newPortal)
		w.wantPaths(r.Attachment.Session.NQN, "nvme0 10.0.0.3:4420")
		w.unstage(r)

		w.host.SetSilent(true)
		again := w.stageRequest(w.host.Create(size), "")
		w.wantErr(w.node.Stage(w.within(10*time.Second), again), volume.ErrUnavailable)
	})
}

// TestDrop: the dead connection goes if every volume's I/O waits in a table, and not
// otherwise; a live one stays. What was under way is not lost.
func TestDrop(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		p := w.static()
		nqn := p.Attachment.Session.NQN
		w.must(w.node.Drop(w.ctx(), nqn))
		w.wantPaths(nqn, "nvme0 10.0.0.2:4420")
		w.machine.SetDark(oldPortal, true)
		w.machine.HoldBack(nqn)
		w.write(p.TargetPath, " and more")
		w.must(w.node.Drop(w.ctx(), nqn))
		if w.guard == node.GuardKernel {
			w.wantPaths(nqn, "nvme0 10.0.0.2:4420")
			return
		}
		w.wantPaths(nqn)
		w.must(w.node.Drop(w.ctx(), nqn)) // there is nothing left to drop
		w.machine.SetDark(oldPortal, false)
		w.must(w.node.Restore(w.ctx(), p.Attachment.Session))
		w.feed()
		w.wantState(p.VolumeID, node.Connected, "")
		w.unpublish(p)
		w.unstage(p.StageRequest)
		if lost := w.machine.Lost(); lost != "" {
			w.Errorf("lost %q", lost)
		}
		w.must(w.node.Drop(w.ctx(), nqn)) // nobody wants it
	})
}

// TestMovedWhileAway: the kernel refuses the new connection because of the dead
// old one. That goes if every volume's I/O waits in a table, and not otherwise.
func TestMovedWhileAway(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		p := w.static()
		nqn := p.Attachment.Session.NQN
		p.Attachment.Session.Portals = []netip.AddrPort{newPortal}
		w.stage(p.StageRequest)
		refused := &initiator.ConnectError{Op: "connect", NQN: nqn, Err: syscall.EINVAL}
		w.machine.RefuseConnect(nqn, refused)
		w.wantErr(w.node.Restore(w.ctx(), p.Attachment.Session), syscall.EINVAL)
		w.wantPaths(nqn, "nvme0 10.0.0.2:4420") // it is live
		w.machine.SetDark(oldPortal, true)
		w.machine.HoldBack(nqn)
		w.write(p.TargetPath, " and more")
		w.wantErr(w.node.Restore(w.ctx(), p.Attachment.Session), syscall.EINVAL)
		if w.guard == node.GuardKernel {
			w.wantPaths(nqn, "nvme0 10.0.0.2:4420")
			return
		}
		w.wantPaths(nqn)
		w.machine.RefuseConnect(nqn, nil)
		w.must(w.node.Restore(w.ctx(), p.Attachment.Session))
		w.feed()
		w.wantState(p.VolumeID, node.Connected, "")
		w.unpublish(p)
		w.unstage(p.StageRequest)
		if lost := w.machine.Lost(); lost != "" {
			w.Errorf("lost %q", lost)
		}
	})
}
