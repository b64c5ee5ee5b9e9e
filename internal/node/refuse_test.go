package node_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/node/nodetest"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// refusals are stages that must fail for good, with nothing left behind: the
// kubelet forgets the stage and never unstages it.
var refusals = map[string]struct {
	spoil func(*world, *node.StageRequest)
	want  error
}{
	"connect refused": {func(w *world, r *node.StageRequest) {
		w.machine.RefuseConnect(r.Attachment.Session.NQN, &volumeError{volume.ErrPrecondition})
	}, volume.ErrPrecondition},
	"another volume there": {func(_ *world, r *node.StageRequest) { r.Attachment.Identity.UUID = r.Attachment.Identity.NGUID }, volume.ErrPrecondition},
	"publication ended":    {func(_ *world, r *node.StageRequest) { r.Attachment.Managed.Ref.Generation += 7 }, volume.ErrEnded},
	"foreign content": {func(w *world, r *node.StageRequest) {
		w.host.Medium(r.Attachment.Managed.Ref.Volume).Set(filesystem.Content{Kind: filesystem.Other, Detail: "a LUKS header"})
	}, volume.ErrPrecondition},
	"not blank": {func(w *world, r *node.StageRequest) { w.host.Medium(r.Attachment.Managed.Ref.Volume).SetWritten() }, volume.ErrPrecondition},
	"errors for a person": {func(w *world, r *node.StageRequest) {
		m := w.host.Medium(r.Attachment.Managed.Ref.Volume)
		m.Set(filesystem.Content{Kind: filesystem.Ext4, NeedsCheck: true})
		m.SetBroken()
	}, volume.ErrPrecondition},
	"read-only and blank": {func(_ *world, r *node.StageRequest) { r.ReadOnly = true }, volume.ErrPrecondition},
	"cut off": {func(w *world, r *node.StageRequest) {
		w.host.Medium(r.Attachment.Managed.Ref.Volume).Set(filesystem.Content{Kind: filesystem.Ext4, DeclaredBytes: size + 1})
	}, volume.ErrPrecondition},
}

type volumeError struct{ error }

func (e *volumeError) Unwrap() error { return e.error }

func TestStageRefused(t *testing.T) {
	t.Parallel()
	for name, c := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				id := w.host.Create(size)
				r := w.stageRequest(id, "ext4")
				c.spoil(w, &r)
				before, _ := w.host.Medium(id).Probe()
				err := w.node.Stage(w.ctx(), r)
				w.wantErr(err, c.want)
				if !rpcerr.Final(err) {
					w.Errorf("not final: %v", err)
				}
				w.wantView(nothing)
				after, _ := w.host.Medium(id).Probe()
				if diff := cmp.Diff(before, after); diff != "" || w.host.Medium(id).Formats() > 0 || w.host.Formatting(id) {
					w.Errorf("something was written: %s", diff)
				}
			})
		})
	}
}

// TestStageRefusedRollbackFails: while something is left behind the answer must
// not be final. Every step of the rollback fails once.
func TestStageRefusedRollbackFails(t *testing.T) {
	t.Parallel()
	for _, g := range []node.Guard{node.GuardKernel, node.GuardDM} {
		t.Run(string(g), func(t *testing.T) {
			t.Parallel()
			rollbackFails(t, g)
		})
	}
}

func rollbackFails(t *testing.T, g node.Guard) {
	refused := func(w *world) node.StageRequest {
		r := w.stageRequest(w.host.Create(size), "ext4")
		w.host.Medium(r.Attachment.Identity.UUID).Set(filesystem.Content{Kind: filesystem.Other})
		return r
	}
	steps := 0
	guarded(t, g, func(w *world) {
		w.proc.Strike(nodetest.Fault{})
		w.wantErr(w.node.Stage(w.ctx(), refused(w)), volume.ErrPrecondition)
		steps = len(w.proc.Steps())
	})
	for at := 1; at <= steps; at++ {
		guarded(t, g, func(w *world) {
			r := refused(w)
			w.proc.Strike(nodetest.Fault{At: at, Blow: nodetest.Fail, Err: errors.New("a step failed")})
			err := w.node.Stage(w.ctx(), r)
			if rpcerr.Final(err) && cmp.Diff(nothing, w.look()) != "" || err == nil {
				t.Errorf("step %d of %v: answered %v and left %+v", at, w.proc.Steps(), err, w.look())
			}
			// The kubelet calls again after an answer that is not final.
			w.wantErr(w.node.Stage(w.ctx(), r), volume.ErrPrecondition)
			w.wantView(nothing)
		})
	}
}

// TestStageRollbackAlone: the clean-up does not end with the time of the caller.
func TestStageRollbackAlone(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		r := w.stageRequest(w.host.Create(size), "ext4")
		w.host.Medium(r.Attachment.Identity.UUID).Set(filesystem.Content{Kind: filesystem.Other})
		entered, open := w.proc.Hold("Probe")
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(w.Context())
		go func() { done <- w.node.Stage(ctx, r) }()
		<-entered
		cancel() // the kubelet went away; the clean-up is ours all the same
		open()
		w.wantErr(<-done, volume.ErrPrecondition)
		w.wantView(nothing)
	})
}
