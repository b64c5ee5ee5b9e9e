package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/node/nodetest"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// again withdraws a publication and makes the next one.
func (w *world) again(r node.StageRequest) node.StageRequest {
	id := r.Attachment.Managed.Ref.Volume
	w.host.Unpublish(id)
	return w.stageRequest(id, r.FSType)
}

func TestOlderGeneration(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		old := w.stageRequest(w.host.Create(size), "ext4")
		r := w.again(old)
		w.stage(r)
		before := w.look()
		w.proc.Strike(nodetest.Fault{})
		w.wantErr(w.node.Stage(w.ctx(), old), volume.ErrUnavailable, "generation 2", "carries 1")
		w.wantErr(w.node.Publish(w.ctx(), w.publishRequest(old, "a")), volume.ErrUnavailable, "out of date")
		if c := changes(w.proc.Steps()); len(c) > 0 {
			w.Errorf("did %v", c)
		}
		w.wantView(before)
	})
}

// TestNewerGeneration: the kubelet publishes with a newer generation and does
// not stage before. What the old one had unsaved has no right to land, and the
// pod's old path goes with it.
func TestNewerGeneration(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fsType string
		// neighbour: another volume shares the session and must not notice.
		neighbour bool
		// call brings the newer generation.
		call func(*world, node.PublishRequest)
	}{
		"publish":                     {"ext4", false, (*world).publish},
		"publish, shared":             {"ext4", true, (*world).publish},
		"publish block":               {"", false, (*world).publish},
		"publish block, shared":       {"", true, (*world).publish},
		"stage":                       {"ext4", false, func(w *world, p node.PublishRequest) { w.stage(p.StageRequest); w.publish(p) }},
		"stage, shared, newly opened": {"xfs", true, func(w *world, p node.PublishRequest) { w.restart(); w.stage(p.StageRequest); w.publish(p) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				neighbour := w.publishRequest(w.stageRequest(w.host.Create(size), "ext4"), "neighbour")
				if c.neighbour {
					w.stage(neighbour.StageRequest)
					w.publish(neighbour)
					w.write(neighbour.TargetPath, "kept")
				} else {
					w.host.Unpublish(neighbour.Attachment.Managed.Ref.Volume)
				}
				id := w.host.Create(size)
				old := w.publishRequest(w.stageRequest(id, c.fsType), "old")
				w.stage(old.StageRequest)
				w.publish(old)
				w.write(old.TargetPath, "too late")
				next := w.publishRequest(w.again(old.StageRequest), "next")
				c.call(w, next)
				w.write(next.TargetPath, "new")
				for _, m := range w.machine.Mounted() {
					if len(m) > len(old.TargetPath) && m[:len(old.TargetPath)] == old.TargetPath {
						w.Errorf("the old path still shows %s", m)
					}
				}
				w.unpublish(next)
				w.unstage(next.StageRequest)
				if got, lost := w.host.Medium(id).Data(), w.machine.Lost(); got != "new" || lost != "too late" {
					w.Errorf("data %q, lost %q", got, lost)
				}
				if c.neighbour {
					if n := w.machine.Ended(neighbour.Attachment.Session.NQN); n != 0 {
						w.Errorf("the neighbour's session was disconnected %d times", n)
					}
					w.unpublish(neighbour)
					w.unstage(neighbour.StageRequest)
					if got := w.host.Medium(neighbour.Attachment.Managed.Ref.Volume).Data(); got != "kept" {
						w.Errorf("the neighbour's data %q", got)
					}
				}
				w.wantView(view{Lost: "too late"})
			})
		})
	}
}

// TestAllWithdrawn: the node was away, every volume was withdrawn, and the
// session with the last. On kernels before 6.10 it reconnects for ever. None of
// the volumes may wait for another that is dead too.
func TestAllWithdrawn(t *testing.T) {
	t.Parallel()
	for _, stubborn := range []bool{false, true} {
		for _, call := range []string{"stage", "unstage"} {
			t.Run(call, func(t *testing.T) {
				t.Parallel()
				inWorlds(t, func(w *world) {
					if stubborn {
						w.machine.SetStubborn()
					}
					a, b := w.stageRequest(w.host.Create(size), "ext4"), w.stageRequest(w.host.Create(size), "ext4")
					w.stage(a)
					w.stage(b)
					w.machine.Cut(a.Attachment.Session.NQN)
					w.host.Unpublish(a.Attachment.Managed.Ref.Volume)
					w.host.Unpublish(b.Attachment.Managed.Ref.Volume)
					w.machine.Heal(a.Attachment.Session.NQN)
					if call == "unstage" {
						w.unstage(a)
						w.unstage(b)
						w.wantView(nothing)
						return
					}
					a2, b2 := w.stageRequest(a.Attachment.Managed.Ref.Volume, "ext4"), w.stageRequest(b.Attachment.Managed.Ref.Volume, "ext4")
					w.stage(a2)
					w.stage(b2)
					w.unstage(a2)
					w.unstage(b2)
					w.wantView(nothing)
				})
			})
		}
	}
}

// TestNewerGenerationNotWithdrawnYet: the old device is still there, on a live
// session. Nothing is touched until the kernel has let go of it.
func TestNewerGenerationNotWithdrawnYet(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		keep := w.stageRequest(w.host.Create(size), "ext4")
		w.stage(keep)
		r := w.stageRequest(w.host.Create(size), "ext4")
		w.stage(r)
		w.machine.Cut(r.Attachment.Session.NQN)
		next := w.again(r)
		w.wantErr(w.node.Stage(w.within(5*time.Second), next), volume.ErrUnavailable)
		if v := w.look(); len(v.Mounts) != 2 || v.Sessions != 1 {
			w.Errorf("while the path is away: %+v", v)
		}
		w.machine.Heal(r.Attachment.Session.NQN)
		w.stage(next)
		w.unstage(next)
		w.unstage(keep)
		w.wantView(nothing)
		if n := w.machine.Ended(keep.Attachment.Session.NQN); n != 1 {
			w.Errorf("disconnected %d times", n)
		}
	})
}

// TestSessionShared: of the volumes that share a session the last unstage
// disconnects it, once.
func TestSessionShared(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		var all []node.StageRequest
		for range 3 {
			r := w.stageRequest(w.host.Create(size), "ext4")
			w.stage(r)
			all = append(all, r)
		}
		nqn := all[0].Attachment.Session.NQN
		for i, r := range all {
			if got := w.machine.Ended(nqn); got != 0 || len(w.machine.Sessions()) != 1 {
				w.Errorf("after %d unstages: disconnected %d times", i, got)
			}
			w.unstage(r)
			w.unstage(r)
		}
		w.wantView(nothing)
		if got := w.machine.Ended(nqn); got != 1 {
			w.Errorf("disconnected %d times, want 1", got)
		}
	})
}

// TestSessionSharedAtOnce: the last two are unstaged at the same time.
func TestSessionSharedAtOnce(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"Sync", "Unmount", "SuperblockGone", "Disconnect"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				a, b := w.stageRequest(w.host.Create(size), "ext4"), w.stageRequest(w.host.Create(size), "ext4")
				w.stage(a)
				w.stage(b)
				entered, open := w.proc.Hold(step)
				done := make(chan error, 2)
				for _, r := range []node.StageRequest{a, b} {
					go func() { done <- w.node.Unstage(w.ctx(), r.VolumeID, r.StagingPath) }()
				}
				<-entered
				synctest.Wait() // the other one has come as far as it can
				open()
				w.must(<-done)
				w.must(<-done)
				w.wantView(nothing)
				if got := w.machine.Ended(a.Attachment.Session.NQN); got != 1 {
					w.Errorf("disconnected %d times, want 1", got)
				}
			})
		})
	}
}

// TestStageDuringLastUnstage: a volume is staged in a session that is just being
// taken down. It waits, and connects again; or the session stays.
func TestStageDuringLastUnstage(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"Sync", "Unmount", "Disconnect"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				a, b := w.stageRequest(w.host.Create(size), "ext4"), w.stageRequest(w.host.Create(size), "ext4")
				w.stage(a)
				entered, open := w.proc.Hold(step)
				done := make(chan error, 2)
				go func() { done <- w.node.Unstage(w.ctx(), a.VolumeID, a.StagingPath) }()
				<-entered
				go func() { done <- w.node.Stage(w.ctx(), b) }()
				synctest.Wait()
				open()
				w.must(<-done)
				w.must(<-done)
				w.publish(w.publishRequest(b, "b"))
				w.write(w.target("b"), "x")
			})
		})
	}
}

// TestStageDuringBurial: a volume of the same session is staged between the look
// at who uses the session and its end.
func TestStageDuringBurial(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		old := w.stageRequest(w.host.Create(size), "ext4")
		w.stage(old)
		// Another volume keeps the session alive at the host, and is not staged yet.
		other := w.stageRequest(w.host.Create(size), "ext4")
		next := w.again(old)
		entered, open := w.proc.Hold("Disconnect")
		done := make(chan error, 2)
		go func() { done <- w.node.Stage(w.ctx(), next) }()
		<-entered
		go func() { done <- w.node.Stage(w.ctx(), other) }()
		synctest.Wait()
		if got := len(w.machine.Mounted()); got != 1 {
			w.Errorf("%d mounts while the session is being taken down", got)
		}
		open()
		w.must(<-done)
		w.must(<-done)
		p := w.publishRequest(other, "other")
		w.publish(p)
		w.write(p.TargetPath, "x")
		w.unpublish(p)
		w.unstage(other)
		w.unstage(next)
		w.wantView(nothing)
		if got := w.host.Medium(other.Attachment.Managed.Ref.Volume).Data(); got != "x" {
			w.Errorf("data %q", got)
		}
	})
}

// TestSessionLockWaits: waiting for another's connect or disconnect ends with
// the caller's time, with an answer that is not final.
func TestSessionLockWaits(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		a, b := w.stageRequest(w.host.Create(size), "ext4"), w.stageRequest(w.host.Create(size), "ext4")
		w.stage(a)
		entered, open := w.proc.Hold("Disconnect")
		done := make(chan error, 1)
		go func() { done <- w.node.Unstage(w.ctx(), a.VolumeID, a.StagingPath) }()
		<-entered
		w.wantErr(w.node.Stage(w.within(time.Second), b), volume.ErrPending, b.Attachment.Session.NQN)
		open()
		w.must(<-done)
		w.stage(b)
		w.unstage(b)
		w.wantView(nothing)
	})
}
