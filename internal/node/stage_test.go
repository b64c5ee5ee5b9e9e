package node_test

import (
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/node/nodetest"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

func TestStage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fsType   string
		readOnly bool
		options  []string
		content  filesystem.Content
		mode     string // of the mount; "" = none
		formats  int
		changes  []string
	}{
		"blank ext4": {
			fsType: "ext4", mode: "rw", formats: 1,
			changes: []string{"EnsureSession", "WaitNamespace", "Ensure", "BeginFormat", "Format", "FlushDevice", "EndFormat", "MountDevice"},
		},
		"blank xfs": {
			fsType: "xfs", formats: 1,
			mode:    "rw",
			changes: []string{"EnsureSession", "WaitNamespace", "Ensure", "BeginFormat", "Format", "FlushDevice", "EndFormat", "MountDevice"},
		},
		"ext4 that is there": {
			fsType: "ext4", content: filesystem.Content{Kind: filesystem.Ext4}, mode: "rw",
			changes: []string{"EnsureSession", "WaitNamespace", "Ensure", "MountDevice"},
		},
		"ext4 with errors": {
			fsType: "ext4", content: filesystem.Content{Kind: filesystem.Ext4, NeedsCheck: true}, mode: "rw",
			changes: []string{"EnsureSession", "WaitNamespace", "Ensure", "Check", "MountDevice"},
		},
		"read-only": {
			fsType: "ext4", readOnly: true, content: filesystem.Content{Kind: filesystem.Ext4, NeedsCheck: true},
			mode:    "ro",
			changes: []string{"EnsureSession", "WaitNamespace", "Ensure", "MountDevice"},
		},
		"read-only whatever the options say": {
			fsType: "ext4", readOnly: true, options: []string{"rw"}, content: filesystem.Content{Kind: filesystem.Ext4},
			mode:    "ro",
			changes: []string{"EnsureSession", "WaitNamespace", "Ensure", "MountDevice"},
		},
		"block": {
			content: filesystem.Content{Kind: filesystem.Other},
			changes: []string{"EnsureSession", "WaitNamespace", "Ensure"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				id := w.host.Create(size)
				if c.content.Kind != "" {
					w.host.Medium(id).Set(c.content)
				}
				r := w.stageRequest(id, c.fsType)
				r.ReadOnly, r.MountOptions = c.readOnly, c.options
				w.proc.Strike(nodetest.Fault{})
				w.stage(r)
				w.wantChanges(c.changes...)
				want := view{Records: []string{"staged DISK "}, Sessions: 1, Tables: w.tables()}
				if c.mode != "" {
					want.Mounts, want.Supers = []string{"STAGING " + c.fsType + " DISK " + c.mode}, []string{"DISK"}
				}
				w.wantView(want)
				// Twice is once.
				w.proc.Strike(nodetest.Fault{})
				w.stage(r)
				w.wantChanges()
				w.wantView(want)
				if m := w.host.Medium(id); m.Formats() != c.formats || w.host.Formatting(id) {
					w.Errorf("formatted %d times, want %d; on record: %v", m.Formats(), c.formats, w.host.Formatting(id))
				}
				w.unstage(r)
				w.wantView(nothing)
			})
		})
	}
}

// TestStageBusy: CSI wants Aborted while another call on the volume is under way.
func TestStageBusy(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"EnsureSession", "WaitNamespace", "Status", "Probe", "Format", "MountDevice"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				r := w.stageRequest(w.host.Create(size), "ext4")
				entered, open := w.proc.Hold(step)
				defer open()
				first := make(chan error, 1)
				go func() { first <- w.node.Stage(w.ctx(), r) }()
				<-entered
				for what, err := range map[string]error{
					"stage":     w.node.Stage(w.ctx(), r),
					"publish":   w.node.Publish(w.ctx(), w.publishRequest(r, "a")),
					"unpublish": w.node.Unpublish(w.ctx(), r.VolumeID, w.target("a")),
					"unstage":   w.node.Unstage(w.ctx(), r.VolumeID, r.StagingPath),
				} {
					if !errors.Is(err, volume.ErrBusy) || rpcerr.Code(err).String() != "Aborted" {
						w.Errorf("%s meanwhile: %v", what, err)
					}
				}
				open()
				w.must(<-first)
				w.wantView(w.staged())
			})
		})
	}
}

// TestStageOtherVolumeMeanwhile: one hung volume holds up no other, also not one
// that shares its session.
func TestStageOtherVolumeMeanwhile(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		a, b := w.stageRequest(w.host.Create(size), "ext4"), w.stageRequest(w.host.Create(size), "xfs")
		entered, open := w.proc.Hold("Format")
		first := make(chan error, 1)
		go func() { first <- w.node.Stage(w.ctx(), a) }()
		<-entered
		w.stage(b)
		open()
		w.must(<-first)
	})
}

func TestStageDifferently(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*node.StageRequest){
		"path":    func(r *node.StageRequest) { r.StagingPath += "-other" },
		"fsType":  func(r *node.StageRequest) { r.FSType = "xfs" },
		"block":   func(r *node.StageRequest) { r.FSType = "" },
		"options": func(r *node.StageRequest) { r.MountOptions = []string{"noatime"} },
		"mode":    func(r *node.StageRequest) { r.ReadOnly = true },
		"NSID":    func(r *node.StageRequest) { r.Attachment.Identity.NSID++ },
		"session": func(r *node.StageRequest) { r.Attachment.Session.NQN += "x" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				r := w.stageRequest(w.host.Create(size), "ext4")
				w.stage(r)
				other := r
				change(&other)
				w.wantErr(w.node.Stage(w.ctx(), other), volume.ErrExists, r.VolumeID, r.StagingPath)
				w.wantErr(w.node.Publish(w.ctx(), w.publishRequest(other, "a")), volume.ErrExists)
				w.wantView(w.staged())
			})
		})
	}
}

func TestStageInvalid(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		good := w.stageRequest(w.host.Create(size), "ext4")
		for name, c := range map[string]struct {
			change func(*node.StageRequest)
			says   string
		}{
			"no volume":     {func(r *node.StageRequest) { r.VolumeID = "" }, "volume ID"},
			"no path":       {func(r *node.StageRequest) { r.StagingPath = "" }, "staging path"},
			"relative path": {func(r *node.StageRequest) { r.StagingPath = "a/b" }, `"a/b"`},
			"dots":          {func(r *node.StageRequest) { r.StagingPath = "/a/../b" }, `"/a/../b"`},
			"slash behind":  {func(r *node.StageRequest) { r.StagingPath = "/a/" }, `"/a/"`},
			"root":          {func(r *node.StageRequest) { r.StagingPath = "/" }, `"/"`},
			"NUL":           {func(r *node.StageRequest) { r.StagingPath = "/a\x00b" }, `\x00`},
			"fsType":        {func(r *node.StageRequest) { r.FSType = "btrfs" }, `"btrfs"`},
			"option":        {func(r *node.StageRequest) { r.MountOptions = []string{"errors=continue"} }, `"errors" (value "continue")`},
		} {
			r := good
			c.change(&r)
			w.proc.Strike(nodetest.Fault{})
			w.wantErr(w.node.Stage(w.ctx(), r), volume.ErrInvalid, c.says)
			w.wantErr(w.node.Publish(w.ctx(), w.publishRequest(r, "a")), volume.ErrInvalid, c.says)
			if steps := w.proc.Steps(); len(steps) > 0 {
				t.Errorf("%s: did %v", name, steps)
			}
		}
		w.wantErr(w.node.Publish(w.ctx(), node.PublishRequest{StageRequest: good, TargetPath: "x"}), volume.ErrInvalid, `"x"`)
		w.wantErr(w.node.Unpublish(w.ctx(), good.VolumeID, "/x/../y"), volume.ErrInvalid, "/x/../y")
		w.wantErr(w.node.Unstage(w.ctx(), good.VolumeID, ""), volume.ErrInvalid, "staging path")
		w.wantView(nothing)
	})
}

// TestStageUncertain: whatever may pass keeps the record, because the kubelet
// calls again; and it is never answered with a final code.
func TestStageUncertain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil, mend func(*world, node.StageRequest)
		want        error
	}{
		"target away": {
			func(w *world, r node.StageRequest) { w.host.Unpublish(r.Attachment.Identity.UUID) }, nil, volume.ErrUnavailable,
		},
		"agent away": {
			func(w *world, _ node.StageRequest) { w.host.SetSilent(true) },
			func(w *world, _ node.StageRequest) { w.host.SetSilent(false) }, volume.ErrUnavailable,
		},
		"device not readable": {
			func(w *world, r node.StageRequest) { w.host.Medium(r.Attachment.Identity.UUID).FailReads(syscall.EIO) },
			func(w *world, r node.StageRequest) { w.host.Medium(r.Attachment.Identity.UUID).FailReads(nil) }, volume.ErrUnavailable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				r := w.stageRequest(w.host.Create(size), "ext4")
				c.spoil(w, r)
				err := w.node.Stage(w.ctx(), r)
				w.wantErr(err, c.want)
				if rpcerr.Final(err) {
					w.Errorf("final: %v", err)
				}
				if v := w.look(); len(v.Records) != 1 || len(v.Mounts) > 0 || w.host.Medium(r.Attachment.Identity.UUID).Written() {
					w.Errorf("left %+v", v)
				}
				if c.mend != nil {
					c.mend(w, r)
					w.stage(r)
				}
				w.unstage(r)
				w.wantView(nothing)
			})
		})
	}
}

// TestStageDead: a stage whose device the kernel deleted is made again by the
// next call, with the pods' paths taken over.
func TestStageDead(t *testing.T) {
	t.Parallel()
	deviceDeleted := func(w *world, r node.StageRequest) { w.machine.Vanish(r.Attachment.Session.NQN) }
	unmounted := func(w *world, r node.StageRequest) { w.must(w.proc.Unmount(r.StagingPath)) }
	for name, c := range map[string]struct {
		guard node.Guard
		kill  func(*world, node.StageRequest)
	}{
		"device deleted":                        {node.GuardKernel, deviceDeleted},
		"unmounted by hand":                     {node.GuardKernel, unmounted},
		"unmounted by hand, dm":                 {node.GuardDM, unmounted},
		"unmounted by hand, device deleted, dm": {node.GuardDM, func(w *world, r node.StageRequest) { unmounted(w, r); deviceDeleted(w, r) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guarded(t, c.guard, func(w *world) {
				id := w.host.Create(size)
				r := w.stageRequest(id, "ext4")
				p := w.publishRequest(r, "a")
				w.stage(r)
				w.publish(p)
				c.kill(w, r)
				w.publish(p)
				v := w.look()
				if len(v.Mounts) != 2 || len(v.Supers) != 1 || v.Sessions != 1 || len(v.Records) != 1 || len(v.Tables) != len(w.tables()) {
					w.Errorf("after the restage: %+v", v)
				}
				w.write(p.TargetPath, "new")
				w.unpublish(p)
				w.unstage(r)
				w.wantView(nothing)
				if m := w.host.Medium(id); m.Data() != "new" || m.Formats() != 1 {
					w.Errorf("data %q, formatted %d times", m.Data(), m.Formats())
				}
			})
		})
	}
}

// TestStageResumedThenUnstaged: a restage that does not come to its end must
// not make the unstage forget the device that still has unsaved data.
func TestStageResumedThenUnstaged(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		id := w.host.Create(size)
		r := w.stageRequest(id, "ext4")
		p := w.publishRequest(r, "a")
		w.stage(r)
		w.publish(p)
		w.write(p.TargetPath, "precious")
		w.must(w.proc.Unmount(r.StagingPath)) // by hand; the pod's bind stays
		w.machine.Cut(r.Attachment.Session.NQN)
		w.wantErr(w.node.Stage(w.ctx(), r), volume.ErrUnavailable)
		w.wantErr(w.node.Unpublish(w.ctx(), p.VolumeID, p.TargetPath), volume.ErrPending)
		w.wantErr(w.node.Unstage(w.within(time.Second), r.VolumeID, r.StagingPath), volume.ErrPending)
		w.machine.Heal(r.Attachment.Session.NQN)
		synctest.Wait()
		w.unstage(r)
		w.wantView(nothing)
		if got := w.host.Medium(id).Data(); got != "precious" {
			w.Errorf("data %q", got)
		}
	})
}
