package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
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
	// guard is the only one with which it makes sense; "" = both.
	guard node.Guard
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
	// newer comes with a newer generation; stray says that the table of the older
	// one may be left over.
	newer, stray bool
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

// afterwards adds what happens before the call.
func afterwards(prepare func(*world) node.PublishRequest, then ...func(*world, node.PublishRequest)) func(*world) node.PublishRequest {
	return func(w *world) node.PublishRequest {
		p := prepare(w)
		for _, f := range then {
			f(w, p)
		}
		return p
	}
}

func synced(w *world, p node.PublishRequest) { w.must(w.proc.Sync(p.StagingPath)) }

func unmounted(w *world, p node.PublishRequest) { w.must(w.proc.Unmount(p.StagingPath)) }

func deviceGone(w *world, p node.PublishRequest) { w.machine.Vanish(p.Attachment.Session.NQN) }

func withdrawn(w *world, p node.PublishRequest) { w.host.Unpublish(p.Attachment.Managed.Ref.Volume) }

func ended(w *world, p node.PublishRequest) { w.must(callEnd(w.ctx(), w, p)) }

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

func callEnd(ctx context.Context, w *world, p node.PublishRequest) error {
	return w.node.End(ctx, p.VolumeID, node.Abandoned)
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
	"stage after reboot": {
		prepare: afterwards(published("ext4"), synced, func(w *world, _ node.PublishRequest) { w.reboot() }), call: callStage, data: "data",
	},
	"stage after the device went": {
		guard: node.GuardKernel, prepare: afterwards(published("ext4"), synced, deviceGone), call: callStage, data: "data", dead: true,
	},
	"stage over another disk": {
		guard: node.GuardDM, prepare: afterwards(published("ext4"), unmounted, deviceGone), call: callStage, data: "data", dead: true,
	},
	"stage newer":                {prepare: newer(published("ext4")), call: callStage, lost: "data", newer: true},
	"stage newer block":          {prepare: newer(published("")), call: callStage, lost: "data", newer: true},
	"stage newer beside another": {prepare: withNeighbour(newer(published("ext4"))), call: callStage, lost: "data", newer: true},
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
	"publish newer":      {prepare: newer(published("ext4")), call: callPublish, lost: "data", newer: true},
	"unpublish":          {prepare: published("ext4"), call: callUnpublish, data: "*"},
	"unpublish block":    {prepare: published(""), call: callUnpublish, data: "*"},
	"unstage":            {prepare: unpublished("ext4"), call: callUnstage, data: "data"},
	"unstage block":      {prepare: unpublished(""), call: callUnstage, data: "data"},
	"unstage withdrawn":  {prepare: afterwards(unpublished("ext4"), withdrawn), call: callUnstage, lost: "data"},
	"unstage one of two": {prepare: withNeighbour(unpublished("ext4")), call: callUnstage, data: "data"},
	"unstage after it began": {prepare: func(w *world) node.PublishRequest {
		p := unpublished("xfs")(w)
		w.machine.Cut(p.Attachment.Session.NQN)
		w.wantErr(w.node.Unstage(w.ctx(), p.VolumeID, p.StagingPath), volume.ErrPending)
		w.machine.Heal(p.Attachment.Session.NQN)
		return p
	}, call: callUnstage, data: "data"},
	"end":               {guard: node.GuardDM, prepare: published("ext4"), call: callEnd, lost: "data"},
	"end in an outage":  {guard: node.GuardDM, prepare: afterwards(published(""), deviceGone), call: callEnd, lost: "data"},
	"stage after end":   {guard: node.GuardDM, prepare: afterwards(unpublished("ext4"), ended), call: callStage, lost: "data"},
	"publish after end": {guard: node.GuardDM, prepare: afterwards(unpublished(""), deviceGone, ended), call: callPublish, lost: "data"},
	"unstage after end": {guard: node.GuardDM, prepare: afterwards(unpublished("ext4"), ended), call: callUnstage, lost: "data"},
}

const killedDuring = "killed during"

// blows are the ways in which each step of each flow goes wrong.
var blows = map[string]func(*world, int) nodetest.Fault{
	"killed before":   func(_ *world, at int) nodetest.Fault { return nodetest.Fault{At: at, Blow: nodetest.KillBefore} },
	killedDuring:      func(_ *world, at int) nodetest.Fault { return nodetest.Fault{At: at, Blow: nodetest.KillDuring} },
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
func (w *world) hideRecords() { _ = os.Rename(w.runDir(), w.runDir()+".away") }

func (w *world) showRecords() { _ = os.Rename(w.runDir()+".away", w.runDir()) }

// TestInterrupted lets every step of every call go wrong in every way, calls
// again, and expects what comes out without any fault; or takes the volume away
// instead, and expects nothing to be left and nothing lost.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for name, f := range flows {
		for _, g := range []node.Guard{node.GuardKernel, node.GuardDM} {
			if f.guard != "" && f.guard != g {
				continue
			}
			t.Run(name+", "+string(g), func(t *testing.T) {
				t.Parallel()
				f.interruptAll(t, g)
			})
		}
	}
}

func (f flow) interruptAll(t *testing.T, g node.Guard) {
	var want view
	var steps []string
	guarded(t, g, func(w *world) {
		p := f.prepare(w)
		w.proc.Strike(nodetest.Fault{})
		w.must(f.call(w.ctx(), w, p))
		steps, want = w.proc.Steps(), w.look()
		f.finish(w, p)
	})
	for how, blow := range blows {
		for at := 1; at <= len(steps); at++ {
			if how == killedDuring && !nearHalved(steps, at) {
				continue
			}
			for _, giveUp := range []bool{false, true} {
				guarded(t, g, func(w *world) {
					step := f.interrupt(w, blow, at, giveUp, want)
					if w.Failed() {
						w.Errorf("%s at step %d of %d (%s), given up: %v", how, at, len(steps), step, giveUp)
					}
				})
				if t.Failed() {
					return
				}
			}
		}
	}
}

// halved are the steps that can be half done.
var halved = []string{"Format", "Bind", "Ensure", "GiveUp"}

// nearHalved says whether step at, or a neighbour that may change places with it,
// can be half done.
func nearHalved(steps []string, at int) bool {
	return slices.ContainsFunc(steps[max(at-2, 0):min(at+1, len(steps))], func(s string) bool { return slices.Contains(halved, s) })
}

// watch does what the watch does all the time: whoever still waits gets a
// session, and a disk below the table.
func (w *world) watch() {
	for _, r := range w.node.Records() {
		if r.Table == "" || r.Ended != node.NotEnded {
			continue
		}
		if err := w.node.Restore(w.within(time.Second), r.Stage.Attachment.Session); err == nil {
			_ = w.feedOne(r) // what is not the volume's disk is refused
		}
	}
}

// removeStrays is what the watch does with tables of nobody.
func (w *world) removeStrays() {
	for _, name := range w.machine.TableNames() {
		if !slices.ContainsFunc(w.node.Records(), func(r node.Record) bool { return r.Table == name }) {
			_ = w.proc.Remove(w.within(time.Second), name) // unless something has it open
		}
	}
}

// numbers are those of disks.
var numbers = regexp.MustCompile(`(dm-|nvme0n)[0-9]+`)

// unnumbered is v without the numbers of disks.
func (v view) unnumbered() view {
	for _, list := range []*[]string{&v.Records, &v.Mounts, &v.Supers, &v.Tables} {
		*list = slices.Clone(*list)
		for i := range *list {
			(*list)[i] = numbers.ReplaceAllString((*list)[i], "$1")
		}
	}
	return v
}

// briefly is for calls that are made again: while one of them waits, everything
// polls.
func (w *world) briefly() context.Context { return w.within(5 * time.Second) }

// interrupt returns the name of the step that went wrong.
func (f flow) interrupt(w *world, blow func(*world, int) nodetest.Fault, at int, giveUp bool, want view) string {
	p := f.prepare(w)
	fault := blow(w, at)
	w.proc.Strike(fault)
	err := f.call(w.briefly(), w, p)
	first := err
	w.showRecords()
	if !w.proc.Struck() {
		return "not reached" // which of two steps at once comes first is not fixed
	}
	step := w.proc.Steps()[at-1]
	if fault.Blow == nodetest.KillDuring && !slices.Contains(halved, step) {
		return step // has no halves
	}
	if fault.Blow <= nodetest.KillAfter {
		w.restart()
	}
	w.checkFormatting(p)
	if rpcerr.Final(err) && fault.Blow == nodetest.Fail && strings.HasPrefix(w.Name(), "TestInterrupted/stage") {
		w.checkRolledBack(p)
	}
	// The table of an older generation is left to the watch.
	f.stray = step == "Remove" && f.newer
	if giveUp {
		f.finish(w, p)
		return step
	}
	for range 2 {
		if err = f.call(w.briefly(), w, p); err == nil {
			break
		}
		w.watch()
	}
	w.must(err)
	w.must(f.call(w.ctx(), w, p))
	got := w.look()
	if f.stray {
		w.removeStrays()
		got, want = w.look().unnumbered(), want.unnumbered()
	}
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
			w.watch()
		}
		w.Fatal(fmt.Errorf("%s: %w", what, err))
	}
	neighbour := w.target("neighbour")
	for _, path := range []string{p.TargetPath, neighbour} {
		do("unpublish", func() error { return w.node.Unpublish(w.briefly(), p.VolumeID, path) })
	}
	do("unstage", func() error { return callUnstage(w.briefly(), w, p) })
	for _, r := range w.node.Records() {
		do("unstage the other", func() error { return w.node.Unstage(w.briefly(), r.Stage.VolumeID, r.Stage.StagingPath) })
	}
	if f.stray {
		w.removeStrays()
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
