package node_test

import (
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

// used is a volume that is staged, was published, and has unsaved data.
func used(w *world, fsType string) (r node.StageRequest, data func() string) {
	w.Helper()
	id := w.host.Create(size)
	r = w.stageRequest(id, fsType)
	p := w.publishRequest(r, "used")
	w.stage(r)
	w.publish(p)
	w.write(p.TargetPath, "precious")
	w.unpublish(p)
	return r, w.host.Medium(id).Data
}

func TestUnstage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fsType  string
		changes []string
	}{
		"file system": {"ext4", []string{"Sync", "Unmount", "Remove", "Disconnect"}},
		"block":       {"", []string{"FlushDevice", "Remove", "Disconnect"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				r, data := used(w, c.fsType)
				w.proc.Strike(nodetest.Fault{})
				w.unstage(r)
				w.wantChanges(c.changes...)
				w.wantView(nothing)
				if data() != "precious" {
					w.Errorf("data %q", data())
				}
				w.proc.Strike(nodetest.Fault{})
				w.unstage(r)
				w.wantSteps("Mounts")
			})
		})
	}
}

func TestUnstageElsewhere(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		r, _ := used(w, "ext4")
		w.wantErr(w.node.Unstage(w.ctx(), r.VolumeID, r.StagingPath+"x"), volume.ErrInvalid, r.StagingPath)
		w.wantView(w.staged())
	})
}

// TestUnstageReconnecting: while the path is away nothing is changed but the
// phase, and nothing is ever answered with OK.
func TestUnstageReconnecting(t *testing.T) {
	t.Parallel()
	for name, o := range outages {
		for _, fsType := range []string{"ext4", "xfs", ""} {
			t.Run(name+", fsType="+fsType, func(t *testing.T) {
				t.Parallel()
				guarded(t, o.guard, func(w *world) { unstageReconnecting(w, o, fsType) })
			})
		}
	}
}

func unstageReconnecting(w *world, o outage, fsType string) {
	r, data := used(w, fsType)
	o.begin(w, r)
	want := w.look()
	want.Records = []string{"unstaging DISK "}
	for range 3 {
		w.proc.Strike(nodetest.Fault{})
		w.wantErr(w.node.Unstage(w.ctx(), r.VolumeID, r.StagingPath), volume.ErrPending, "reconnecting")
		w.wantChanges()
	}
	w.wantView(want)
	w.restart()
	w.wantErr(w.node.Unstage(w.ctx(), r.VolumeID, r.StagingPath), volume.ErrPending)
	// A stage has to finish the unstage first, and cannot.
	w.wantErr(w.node.Stage(w.ctx(), r), volume.ErrPending)
	o.end(w, r)
	w.unstage(r)
	w.wantView(nothing)
	if data() != "precious" {
		w.Errorf("data %q", data())
	}
}

// TestUnstageHangs: the path dies between the look at sysfs and the sync, or the
// unmount. The mount table is empty then while the superblock still waits to be
// written; no call may take that for done.
func TestUnstageHangs(t *testing.T) {
	t.Parallel()
	for name, o := range outages {
		for _, step := range []string{"Sync", "Unmount"} {
			for _, restart := range []bool{false, true} {
				t.Run(name+", "+step, func(t *testing.T) {
					t.Parallel()
					guarded(t, o.guard, func(w *world) { unstageHangs(w, o, step, restart) })
				})
			}
		}
	}
}

func unstageHangs(w *world, o outage, step string, restart bool) {
	r, data := used(w, "ext4")
	want := "precious"
	entered, open := w.proc.Hold(step)
	done := make(chan error, 1)
	go func() { done <- w.node.Unstage(w.within(2*time.Second), r.VolumeID, r.StagingPath) }()
	<-entered
	if step == "Unmount" {
		// Something was written after the sync: the journal, say.
		w.write(r.StagingPath, " and late")
		want += " and late"
	}
	o.begin(w, r)
	open()
	w.wantErr(<-done, volume.ErrPending)
	if restart {
		w.restart()
	}
	before := w.look()
	for range 2 {
		w.wantErr(w.node.Unstage(w.within(2*time.Second), r.VolumeID, r.StagingPath), volume.ErrPending)
		if v := w.look(); len(v.Records) != 1 || v.Sessions != before.Sessions || len(v.Supers) != 1 || len(v.Tables) != len(w.tables()) || v.Lost != "" {
			w.Fatalf("while the path is away: %+v", v)
		}
	}
	o.end(w, r)
	w.unstage(r)
	w.wantView(nothing)
	if data() != want {
		w.Errorf("data %q, want %q", data(), want)
	}
}

// TestUnstageGone: the kernel deleted the device, and no table held it. There is nothing left to save,
// so the unstage ends, and a namesake of the disk is not touched.
func TestUnstageGone(t *testing.T) {
	t.Parallel()
	for _, fsType := range []string{"ext4", ""} {
		t.Run("fsType="+fsType, func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				r, _ := used(w, fsType)
				w.machine.Vanish(r.Attachment.Session.NQN)
				if fsType == "" {
					other, medium := w.host.Static(size)
					medium.Set(filesystem.Content{Kind: filesystem.Ext4})
					w.stage(node.StageRequest{VolumeID: "other", StagingPath: w.staging("other"), FSType: "ext4", Attachment: other})
				}
				w.unstage(r)
				want := view{Lost: "precious"}
				if fsType == "" {
					want = w.staged()
					want.Lost = "precious"
				}
				w.wantView(want)
			})
		})
	}
}

// TestUnstageErrorIsLoss: the device took not all that was written and the
// kernel said so.
func TestUnstageErrorIsLoss(t *testing.T) {
	t.Parallel()
	for fsType, step := range map[string]string{"ext4": "Sync", "": "FlushDevice"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				r, _ := used(w, fsType)
				w.proc.Strike(nodetest.Fault{Step: step, Blow: nodetest.Fail, Err: syscall.EIO})
				err := w.node.Unstage(w.ctx(), r.VolumeID, r.StagingPath)
				w.wantErr(err, volume.ErrDataLoss)
				if got := rpcerr.Code(err).String(); got != "DataLoss" {
					w.Errorf("code %s", got)
				}
				w.unstage(r)
				w.wantView(nothing)
			})
		})
	}
}

// TestUnstageUnknown: no record, because it was unstaged before or the run
// directory was lost.
func TestUnstageUnknown(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		w.must(w.node.Unstage(w.ctx(), "never/seen\x00", w.staging("x")))
		r, data := used(w, "ext4")
		w.boot, w.root = "other", w.TempDir() // another run directory
		w.restart()
		w.unstage(r)
		if v := w.look(); len(v.Mounts) > 0 || len(v.Supers) > 0 || v.Lost != "" || data() != "precious" {
			w.Errorf("%+v, data %q", v, data())
		}
	})
}

// TestUnstageUnknownHangs is TestUnstageHangs without a record.
func TestUnstageUnknownHangs(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		r, data := used(w, "ext4")
		w.root = w.TempDir()
		w.restart()
		entered, open := w.proc.Hold("Unmount")
		done := make(chan error, 1)
		go func() { done <- w.node.Unstage(w.within(2*time.Second), r.VolumeID, r.StagingPath) }()
		<-entered
		w.write(r.StagingPath, " and late")
		w.machine.Cut(r.Attachment.Session.NQN)
		open()
		w.wantErr(<-done, volume.ErrPending)
		w.wantErr(w.node.Unstage(w.within(2*time.Second), r.VolumeID, r.StagingPath), volume.ErrPending)
		w.machine.Heal(r.Attachment.Session.NQN)
		synctest.Wait()
		w.unstage(r)
		if data() != "precious and late" {
			w.Errorf("data %q", data())
		}
	})
}

// TestUnstageAfterReboot: what an earlier boot staged is gone, record and all.
func TestUnstageAfterReboot(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		r, _ := used(w, "ext4")
		w.must(w.node.Stage(w.ctx(), r))
		w.reboot()
		w.proc.Strike(nodetest.Fault{})
		w.unstage(r)
		w.wantChanges()
		w.wantView(nothing)
	})
}

// TestStageAfterReboot restages without looking for anything of the old boot.
func TestStageAfterReboot(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		r, data := used(w, "ext4")
		w.must(w.proc.Sync(r.StagingPath))
		w.reboot()
		w.proc.Strike(nodetest.Fault{})
		w.stage(r)
		w.wantChanges("EnsureSession", "WaitNamespace", "Ensure", "MountDevice")
		w.wantView(w.staged())
		if data() != "precious" {
			w.Errorf("data %q", data())
		}
		w.publish(w.publishRequest(r, "a"))
	})
}

// TestUnstageNeverMounted: a stage that never came to its mount has nothing to
// save, and a device that takes nothing does not keep the volume here.
func TestUnstageNeverMounted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil   func(*world, node.StageRequest)
		want    error
		changes []string
	}{
		"not readable": {
			func(w *world, r node.StageRequest) { w.host.Medium(r.Attachment.Identity.UUID).FailReads(syscall.EIO) },
			volume.ErrUnavailable, []string{"Disconnect"},
		},
		"mount fails": {
			func(w *world, _ node.StageRequest) {
				w.proc.Strike(nodetest.Fault{Step: "MountDevice", Blow: nodetest.Fail, Err: syscall.EIO})
			},
			syscall.EIO, []string{"Remove", "Disconnect"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				r := w.stageRequest(w.host.Create(size), "ext4")
				c.spoil(w, r)
				w.wantErr(w.node.Stage(w.ctx(), r), c.want)
				w.proc.Strike(nodetest.Fault{})
				w.unstage(r)
				w.wantChanges(c.changes...)
				w.wantView(nothing)
			})
		})
	}
}

// TestUnstageFlushed: once everything is on the storage host's side, what is
// left is taking away, and for that the path is not needed any more.
func TestUnstageFlushed(t *testing.T) {
	t.Parallel()
	for name, o := range outages {
		steps := []string{"Disconnect"}
		if o.guard == node.GuardDM {
			steps = append(steps, "Remove")
		}
		for _, step := range steps {
			for _, fsType := range []string{"ext4", ""} {
				t.Run(name+", "+step+", fsType="+fsType, func(t *testing.T) {
					t.Parallel()
					guarded(t, o.guard, func(w *world) { unstageFlushed(w, o, step, fsType) })
				})
			}
		}
	}
}

func unstageFlushed(w *world, o outage, step, fsType string) {
	r, data := used(w, fsType)
	entered, open := w.proc.Hold(step)
	done := make(chan error, 1)
	go func() { done <- w.node.Unstage(w.ctx(), r.VolumeID, r.StagingPath) }()
	<-entered
	w.restart() // the process dies in front of the step
	o.begin(w, r)
	w.unstage(r)
	w.wantView(nothing)
	open()
	<-done
	if data() != "precious" {
		w.Errorf("data %q", data())
	}
}

// TestUnstageAfterCrashInStage: the process died between the mount and its
// record. The device is on record all the same, so that an unmount that hangs
// is not taken for one that is over.
func TestUnstageAfterCrashInStage(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		id := w.host.Create(size)
		r := w.stageRequest(id, "ext4")
		w.proc.Strike(nodetest.Fault{Step: "MountDevice", Blow: nodetest.KillAfter})
		w.wantErr(w.node.Stage(w.ctx(), r), nodetest.ErrKilled)
		w.restart()
		w.write(r.StagingPath, "journal")
		w.machine.Cut(r.Attachment.Session.NQN)
		for range 3 {
			w.wantErr(w.node.Unstage(w.within(time.Second), r.VolumeID, r.StagingPath), volume.ErrPending)
		}
		w.machine.Heal(r.Attachment.Session.NQN)
		w.unstage(r)
		w.wantView(nothing)
		if got := w.host.Medium(id).Data(); got != "journal" {
			w.Errorf("data %q", got)
		}
	})
}
