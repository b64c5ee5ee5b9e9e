package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/node/nodetest"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// flow is a call that is interrupted.
type flow struct {
	// prepare makes what the call needs and returns its request.
	prepare func(*world) node.PublishRequest
	call    func(context.Context, *world, node.PublishRequest) error
	// data is what the volume must hold at the end; "*" does not ask.
	data string
	// lost may be lost: it was withdrawn.
	lost string
	// dead has a pod's path left from before, which a final refusal forgets with
	// the record; the kubelet does not.
	dead bool
}

func blank(fsType string) func(*world) node.PublishRequest {
	return func(w *world) node.PublishRequest {
		return w.publishRequest(w.stageRequest(w.host.Create(size), fsType), "pod")
	}
}

// published is a volume in use, with synced data in it.
func published(fsType string) func(*world) node.PublishRequest {
	return func(w *world) node.PublishRequest {
		p := blank(fsType)(w)
		w.stage(p.StageRequest)
		w.publish(p)
		w.write(p.TargetPath, "data")
		return p
	}
}

func unpublished(fsType string) func(*world) node.PublishRequest {
	return func(w *world) node.PublishRequest {
		p := published(fsType)(w)
		w.unpublish(p)
		return p
	}
}

// withNeighbour adds a volume in the same session, which must stay as it is.
func withNeighbour(prepare func(*world) node.PublishRequest) func(*world) node.PublishRequest {
	return func(w *world) node.PublishRequest {
		n := w.publishRequest(w.stageRequest(w.host.Create(size), "ext4"), "neighbour")
		w.stage(n.StageRequest)
		w.publish(n)
		w.write(n.TargetPath, "")
		return prepare(w)
	}
}

func newer(prepare func(*world) node.PublishRequest) func(*world) node.PublishRequest {
	return func(w *world) node.PublishRequest {
		return w.publishRequest(w.again(prepare(w).StageRequest), "pod")
	}
}

func callStage(ctx context.Context, w *world, p node.PublishRequest) error {
	return w.node.Stage(ctx, p.StageRequest)
}

func callPublish(ctx context.Context, w *world, p node.PublishRequest) error {
	return w.node.Publish(ctx, p)
}

func callUnpublish(ctx context.Context, w *world, p node.PublishRequest) error {
	return w.node.Unpublish(ctx, p.VolumeID, p.TargetPath)
}

func callUnstage(ctx context.Context, w *world, p node.PublishRequest) error {
	return w.node.Unstage(ctx, p.VolumeID, p.StagingPath)
}

var flows = map[string]flow{
	"stage blank": {prepare: blank("ext4"), call: callStage},
	"stage block": {prepare: blank(""), call: callStage},
	"stage with errors": {prepare: func(w *world) node.PublishRequest {
		p := blank("ext4")(w)
		w.host.Medium(p.Attachment.Managed.Ref.Volume).Set(filesystem.Content{Kind: filesystem.Ext4, NeedsCheck: true})
		return p
	}, call: callStage},
	"stage beside another": {prepare: withNeighbour(blank("xfs")), call: callStage},
	"stage after reboot": {prepare: func(w *world) node.PublishRequest {
		p := published("ext4")(w)
		w.must(w.proc.Sync(p.StagingPath))
		w.reboot()
		return p
	}, call: callStage, data: "data"},
	"stage after the device went": {prepare: func(w *world) node.PublishRequest {
		p := published("ext4")(w)
		w.must(w.proc.Sync(p.StagingPath))
		w.machine.Vanish(p.Attachment.Session.NQN)
		return p
	}, call: callStage, data: "data", dead: true},
	"stage newer":                {prepare: newer(published("ext4")), call: callStage, lost: "data"},
	"stage newer block":          {prepare: newer(published("")), call: callStage, lost: "data"},
	"stage newer beside another": {prepare: withNeighbour(newer(published("ext4"))), call: callStage, lost: "data"},
	"publish": {prepare: func(w *world) node.PublishRequest {
		p := blank("ext4")(w)
		w.stage(p.StageRequest)
		return p
	}, call: callPublish},
	"publish block read-only": {prepare: func(w *world) node.PublishRequest {
		p := blank("")(w)
		p.TargetReadOnly = true
		w.stage(p.StageRequest)
		return p
	}, call: callPublish},
	"publish newer":      {prepare: newer(published("ext4")), call: callPublish, lost: "data"},
	"unpublish":          {prepare: published("ext4"), call: callUnpublish, data: "*"},
	"unpublish block":    {prepare: published(""), call: callUnpublish, data: "*"},
	"unstage":            {prepare: unpublished("ext4"), call: callUnstage, data: "data"},
	"unstage block":      {prepare: unpublished(""), call: callUnstage, data: "data"},
	"unstage one of two": {prepare: withNeighbour(unpublished("ext4")), call: callUnstage, data: "data"},
	"unstage after it began": {prepare: func(w *world) node.PublishRequest {
		p := unpublished("xfs")(w)
		w.machine.Cut(p.Attachment.Session.NQN)
		w.wantErr(w.node.Unstage(w.ctx(), p.VolumeID, p.StagingPath), volume.ErrPending)
		w.machine.Heal(p.Attachment.Session.NQN)
		return p
	}, call: callUnstage, data: "data"},
}

// blows are the ways in which each step of each flow goes wrong.
var blows = map[string]func(*world, int) nodetest.Fault{
	"killed before":   func(_ *world, at int) nodetest.Fault { return nodetest.Fault{At: at, Blow: nodetest.KillBefore} },
	"killed during":   func(_ *world, at int) nodetest.Fault { return nodetest.Fault{At: at, Blow: nodetest.KillDuring} },
	"killed after":    func(_ *world, at int) nodetest.Fault { return nodetest.Fault{At: at, Blow: nodetest.KillAfter} },
	"failed":          func(_ *world, at int) nodetest.Fault { return fails(at, errors.New("something failed")) },
	"failed for good": func(_ *world, at int) nodetest.Fault { return fails(at, volume.ErrPrecondition) },
	"no record behind": func(w *world, at int) nodetest.Fault {
		return nodetest.Fault{At: at, Blow: nodetest.Break, OnStrike: w.hideRecords}
	},
}

func fails(at int, err error) nodetest.Fault {
	return nodetest.Fault{At: at, Blow: nodetest.Fail, Err: err}
}

// hideRecords makes every further write of a record fail, as a full disk does.
func (w *world) hideRecords() { _ = os.Rename(w.stateDir(), w.stateDir()+".away") }

func (w *world) showRecords() { _ = os.Rename(w.stateDir()+".away", w.stateDir()) }

// TestInterrupted lets every step of every call go wrong in every way, calls
// again, and expects what comes out without any fault; or takes the volume away
// instead, and expects nothing to be left and nothing lost.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for name, f := range flows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var want view
			steps := 0
			inWorld(t, func(w *world) {
				p := f.prepare(w)
				w.proc.Strike(nodetest.Fault{})
				w.must(f.call(w.ctx(), w, p))
				steps, want = len(w.proc.Steps()), w.look()
				f.finish(w, p)
			})
			for how, blow := range blows {
				for at := 1; at <= steps; at++ {
					for _, giveUp := range []bool{false, true} {
						inWorld(t, func(w *world) {
							step := f.interrupt(w, blow, at, giveUp, want)
							if w.Failed() {
								w.Errorf("%s at step %d of %d (%s), given up: %v", how, at, steps, step, giveUp)
							}
						})
						if t.Failed() {
							return
						}
					}
				}
			}
		})
	}
}

// interrupt returns the name of the step that went wrong.
func (f flow) interrupt(w *world, blow func(*world, int) nodetest.Fault, at int, giveUp bool, want view) string {
	p := f.prepare(w)
	fault := blow(w, at)
	w.proc.Strike(fault)
	err := f.call(w.within(10*time.Second), w, p)
	first := err
	w.showRecords()
	if !w.proc.Struck() {
		return "not reached" // which of two steps at once comes first is not fixed
	}
	step := w.proc.Steps()[at-1]
	if fault.Blow == nodetest.KillDuring && step != "Format" && step != "Bind" {
		return step // has no halves
	}
	if fault.Blow <= nodetest.KillAfter {
		w.restart()
	}
	w.checkFormatting(p)
	if rpcerr.Final(err) && fault.Blow == nodetest.Fail && strings.HasPrefix(w.Name(), "TestInterrupted/stage") {
		w.checkRolledBack(p)
	}
	if giveUp {
		f.finish(w, p)
		return step
	}
	for range 2 {
		if err = f.call(w.ctx(), w, p); err == nil {
			break
		}
	}
	w.must(err)
	w.must(f.call(w.ctx(), w, p))
	got := w.look()
	if fault.Blow == nodetest.Break {
		// The second call may have lost what the first could not record.
		got.Lost, want.Lost = "", ""
	}
	if f.dead && rpcerr.Final(first) {
		got.Records, want.Records = nil, nil
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.Errorf("not as without a fault (-want +got):\n%s", diff)
	}
	f.finish(w, p)
	return step
}

// checkFormatting: what is mounted has no format on record, else the next node
// would format it again.
func (w *world) checkFormatting(p node.PublishRequest) {
	w.Helper()
	if !w.host.Formatting(p.Attachment.Managed.Ref.Volume) {
		return
	}
	for _, m := range w.machine.Mounted() {
		if strings.HasPrefix(m, p.StagingPath+" ") {
			w.Errorf("mounted with a format on record: %s", m)
		}
	}
}

// checkRolledBack: after a final answer the kubelet forgets the stage.
func (w *world) checkRolledBack(p node.PublishRequest) {
	w.Helper()
	for _, r := range w.node.Records() {
		if r.Stage.VolumeID == p.VolumeID {
			w.Errorf("a final answer, and a record is left: %+v", r)
		}
	}
	for _, m := range w.machine.Mounted() {
		if strings.HasPrefix(m, p.StagingPath+" ") {
			w.Errorf("a final answer, and a mount is left: %s", m)
		}
	}
}

// finish takes everything away as the kubelet does, and checks that nothing is
// left and nothing was lost.
func (f flow) finish(w *world, p node.PublishRequest) {
	w.Helper()
	do := func(what string, call func() error) {
		w.Helper()
		var err error
		for range 3 {
			if err = call(); err == nil {
				return
			}
		}
		w.Fatal(fmt.Errorf("%s: %w", what, err))
	}
	neighbour := w.target("neighbour")
	for _, path := range []string{p.TargetPath, neighbour} {
		do("unpublish", func() error { return w.node.Unpublish(w.ctx(), p.VolumeID, path) })
	}
	do("unstage", func() error { return callUnstage(w.ctx(), w, p) })
	for _, r := range w.node.Records() {
		do("unstage the other", func() error { return w.node.Unstage(w.ctx(), r.Stage.VolumeID, r.Stage.StagingPath) })
	}
	if diff := cmp.Diff(view{Lost: f.lost}, w.look()); diff != "" {
		w.Errorf("left behind (-want +got):\n%s", diff)
	}
	if f.data == "*" {
		f.data = "data"
	}
	if m := w.host.Medium(p.Attachment.Managed.Ref.Volume); m.Data() != f.data {
		w.Errorf("data %q, want %q", m.Data(), f.data)
	}
}
