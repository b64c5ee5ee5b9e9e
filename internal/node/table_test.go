package node_test

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/node/nodetest"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// inDM is inWorld with tables.
func inDM(t *testing.T, test func(w *world)) {
	t.Helper()
	guarded(t, node.GuardDM, test)
}

func (w *world) record(volumeID string) node.Record {
	w.Helper()
	for _, r := range w.node.Records() {
		if r.Stage.VolumeID == volumeID {
			return r
		}
	}
	w.Fatalf("no record of %s", volumeID)
	return node.Record{}
}

func (w *world) medium(r node.StageRequest) *nodetest.Memory {
	return w.host.Medium(r.Attachment.Managed.Ref.Volume)
}

func (w *world) wantTables(want ...string) {
	w.Helper()
	if diff := cmp.Diff(want, w.machine.Tables()); diff != "" {
		w.Errorf("tables (-want +got):\n%s", diff)
	}
}

func (w *world) wantState(volumeID string, want node.State, says string) {
	w.Helper()
	c, err := w.node.Condition(w.ctx(), volumeID)
	if err != nil || c.State != want || !strings.Contains(c.Message, says) {
		w.Errorf("condition %+v, %v; want %s, %q", c, err, want, says)
	}
}

// TestGuardChoice: the class decides, and without its word it is a table.
func TestGuardChoice(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		guard   node.Guard
		deletes bool
		table   bool
	}{
		"auto":                               {guard: node.GuardAuto, table: true},
		"none given":                         {table: true},
		"auto, the kernel deletes disks":     {guard: node.GuardAuto, deletes: true, table: true},
		"none given, the kernel deletes":     {deletes: true, table: true},
		"kernel":                             {guard: node.GuardKernel},
		"kernel, though that deletes disks":  {guard: node.GuardKernel, deletes: true},
		"dm":                                 {guard: node.GuardDM, table: true},
		"dm, though the kernel deletes none": {guard: node.GuardDM, deletes: true, table: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guarded(t, c.guard, func(w *world) {
				if c.deletes {
					w.machine.SetDeletes()
				}
				r := w.stageRequest(w.host.Create(size), "ext4")
				w.stage(r)
				rec := w.record(r.VolumeID)
				if (rec.Table != "") != c.table || len(w.machine.Tables()) > 0 != c.table || strings.HasPrefix(rec.Disk, "dm-") != c.table {
					w.Errorf("record %+v, tables %v", rec, w.machine.Tables())
				}
				if got := w.machine.Kept(); len(got) > 0 != (!c.table && !c.deletes) {
					w.Errorf("the kernel keeps %v", got)
				}
				other := w.stageRequest(w.host.Create(size), "ext4") // so that the session stays
				w.stage(other)
				w.unstage(r)
				if got := w.machine.Kept(); slices.Contains(got, "nvme0n1") {
					w.Errorf("after the unstage the kernel keeps %v", got)
				}
				w.unstage(other)
				w.wantView(nothing)
			})
		})
	}
}

// TestTableOutage: whatever becomes of the device below, what a pod wrote and
// did not sync is there when the volume's own disk is back below the table,
// under whichever name; and a sync that was under way ends well.
func TestTableOutage(t *testing.T) {
	t.Parallel()
	for name, o := range outages {
		if o.guard != node.GuardDM {
			continue
		}
		for _, fsType := range []string{"ext4", ""} {
			t.Run(name+", fsType="+fsType, func(t *testing.T) {
				t.Parallel()
				inDM(t, func(w *world) { tableOutage(w, o, fsType) })
			})
		}
	}
}

func tableOutage(w *world, o outage, fsType string) {
	p := published(fsType)(w)
	before := w.look()
	o.begin(w, p.StageRequest)
	w.wantState(p.VolumeID, node.Reconnecting, "nothing is lost")
	if u, err := w.node.Stats(w.ctx(), p.VolumeID, p.TargetPath); u != nil || err != nil {
		w.Errorf("usage %+v, %v", u, err)
	}
	w.write(p.TargetPath, " and more") // pods do not notice
	flushed, pod, device := make(chan error, 1), w.machine.Start(nil), w.record(p.VolumeID).Device
	go func() {
		if fsType == "" {
			flushed <- pod.FlushDevice(device)
			return
		}
		flushed <- pod.Sync(p.TargetPath)
	}()
	time.Sleep(time.Minute)
	select {
	case err := <-flushed:
		w.Fatalf("a flush ended while the path was away: %v", err)
	default:
	}
	w.restart()
	o.end(w, p.StageRequest)
	w.must(<-flushed)
	w.wantState(p.VolumeID, node.Connected, "connected")
	if got := w.medium(p.StageRequest).Data(); got != "data and more" {
		w.Errorf("data %q", got)
	}
	after := w.look()
	if len(after.Tables) != 1 || strings.Contains(after.Tables[0], ",") {
		w.Errorf("tables %v", after.Tables)
	}
	after.Tables = before.Tables // over another disk, maybe
	if diff := cmp.Diff(before, after); diff != "" {
		w.Errorf("-before +after:\n%s", diff)
	}
	w.unpublish(p)
	w.unstage(p.StageRequest)
	w.wantView(nothing)
}

// TestTableNotFed: the session is live, and the table does not send anything there
// yet. I/O waits, and so does an unstage.
func TestTableNotFed(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(*world, node.StageRequest){
		"held back": func(w *world, r node.StageRequest) { w.machine.HoldBack(r.Attachment.Session.NQN) },
		"suspended": func(w *world, r node.StageRequest) { w.machine.SetSuspended(w.record(r.VolumeID).Table, true) },
		"another disk": func(w *world, r node.StageRequest) {
			w.machine.Vanish(r.Attachment.Session.NQN)
			w.must(w.node.Restore(w.ctx(), r.Attachment.Session))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inDM(t, func(w *world) {
				r, data := used(w, "ext4")
				begin(w, r)
				w.wantState(r.VolumeID, node.Reconnecting, "nothing is lost")
				w.proc.Strike(nodetest.Fault{})
				w.wantErr(w.node.Unstage(w.ctx(), r.VolumeID, r.StagingPath), volume.ErrPending, "reconnecting")
				w.wantChanges()
				w.feed()
				w.wantState(r.VolumeID, node.Connected, "connected")
				w.unstage(r)
				w.wantView(nothing)
				if data() != "precious" {
					w.Errorf("data %q", data())
				}
			})
		})
	}
}

// TestTableOtherDisk: the disk that was staged is held by the table, so that one
// that comes back has another name; and the names of both are free at the end.
func TestTableOtherDisk(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		p := published("ext4")(w)
		for _, want := range []string{"dm-0 over nvme0n2", "dm-0 over nvme0n1", "dm-0 over nvme0n2"} {
			w.machine.Vanish(p.Attachment.Session.NQN)
			w.must(w.node.Restore(w.ctx(), p.Attachment.Session))
			w.feed()
			w.wantTables(want)
		}
		w.unpublish(p)
		w.unstage(p.StageRequest)
		w.wantView(nothing)
		if got := w.medium(p.StageRequest).Data(); got != "data" {
			w.Errorf("data %q", got)
		}
		w.stage(p.StageRequest)
		w.wantView(w.staged())
	})
}

// TestStageTableStands: a stage that stands is left alone, also while its path is
// away, and whatever the class asks for by now.
func TestStageTableStands(t *testing.T) {
	t.Parallel()
	for name, o := range outages {
		if o.guard != node.GuardDM {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inDM(t, func(w *world) {
				p := published("ext4")(w)
				for range 2 {
					before := w.look()
					for _, g := range []node.Guard{node.GuardDM, node.GuardKernel, node.GuardAuto} {
						p.Attachment.Guard = g
						w.proc.Strike(nodetest.Fault{})
						w.stage(p.StageRequest)
						w.publish(p)
						w.wantChanges()
						w.wantView(before)
					}
					o.begin(w, p.StageRequest)
				}
			})
		})
	}
}

// TestStageKeepsTable: a volume that has a table keeps it when it is staged
// again, though the class asks for the kernel's guard by now: unsaved data may
// wait in it.
func TestStageKeepsTable(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		p := published("ext4")(w)
		w.must(w.proc.Unmount(p.StagingPath)) // by hand; the pod's bind stays
		w.machine.Vanish(p.Attachment.Session.NQN)
		p.Attachment.Guard = node.GuardKernel
		w.stage(p.StageRequest)
		w.wantTables("dm-0 over nvme0n2")
		w.unpublish(p)
		w.unstage(p.StageRequest)
		w.wantView(nothing)
		if got := w.medium(p.StageRequest).Data(); got != "data" {
			w.Errorf("data %q", got)
		}
	})
}

// TestStageAdoptsTable: the records were lost. The table that is left over gets
// its path again, and the volume is whole.
func TestStageAdoptsTable(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		r, data := used(w, "ext4")
		w.root = memoryDir(w.T)
		w.restart()
		w.unstage(r)
		w.machine.Vanish(r.Attachment.Session.NQN)
		w.wantTables("dm-0 over nvme0n1, deleted")
		w.stage(r)
		w.wantTables("dm-0 over nvme0n2")
		w.unstage(r)
		w.wantView(nothing)
		if data() != "precious" {
			w.Errorf("data %q", data())
		}
	})
}

// endings are the ways in which waiting ends, with what people are told.
var endings = map[node.Ending]string{
	node.Withdrawn: "withdrawn: the volume was taken",
	node.Expired:   "lasted longer than ctrlLossTmo",
	node.Abandoned: "given up by hand",
}

// TestEnd: from then on the volume's I/O fails and nothing puts a disk below it
// again; it can be unstaged, and staged anew.
func TestEnd(t *testing.T) {
	t.Parallel()
	during := map[string]func(*world, node.StageRequest){"no outage": func(*world, node.StageRequest) {}}
	for name, o := range outages {
		if o.guard == node.GuardDM {
			during[name] = o.begin
		}
	}
	for why, text := range endings {
		for name, begin := range during {
			for _, fsType := range []string{"ext4", ""} {
				t.Run(string(why)+", "+name+", fsType="+fsType, func(t *testing.T) {
					t.Parallel()
					inDM(t, func(w *world) {
						p := published(fsType)(w)
						begin(w, p.StageRequest)
						w.must(w.node.End(w.ctx(), p.VolumeID, why))
						w.wantEnded(p, why, text)
						stageAfterEnd(w, p)
					})
				})
			}
		}
	}
}

// wantEnded checks that the I/O of p fails, after a restart too.
func (w *world) wantEnded(p node.PublishRequest, why node.Ending, text string) {
	w.Helper()
	before := w.look()
	for range 2 {
		if got := w.record(p.VolumeID).Ended; got != why {
			w.Errorf("ended %q, want %q", got, why)
		}
		w.wantState(p.VolumeID, node.Failed, text)
		w.wantErr(w.machine.Write(p.TargetPath, "x"), syscall.EIO)
		if u, err := w.node.Stats(w.ctx(), p.VolumeID, p.TargetPath); u != nil || err != nil {
			w.Errorf("usage %+v, %v", u, err)
		}
		// Once is for good, whatever comes next.
		w.must(w.node.End(w.ctx(), p.VolumeID, node.Abandoned))
		w.wantErr(w.node.Proof(p.VolumeID, guard.Path{})(), volume.ErrPrecondition, "its waiting has ended", string(why))
		w.wantView(before)
		w.restart()
	}
}

// stageAfterEnd: the kubelet takes an ended volume away and brings it again.
func stageAfterEnd(w *world, p node.PublishRequest) {
	w.Helper()
	w.unpublish(p)
	w.unstage(p.StageRequest)
	w.wantView(view{Lost: "data"})
	w.stage(p.StageRequest)
	w.publish(p)
	w.wantTables(w.tables()...)
	if rec := w.record(p.VolumeID); rec.Ended != node.NotEnded {
		w.Errorf("still ended: %s", rec.Ended)
	}
	w.write(p.TargetPath, "new")
	w.unpublish(p)
	w.unstage(p.StageRequest)
	w.wantView(view{Lost: "data"})
	if got := w.medium(p.StageRequest).Data(); got != "new" {
		w.Errorf("data %q", got)
	}
}

// TestStageOverEnded: the same generation is staged over an ended one that was
// not unstaged: it gets a table of its own, once nobody uses the old one.
func TestStageOverEnded(t *testing.T) {
	t.Parallel()
	for _, fsType := range []string{"ext4", ""} {
		t.Run("fsType="+fsType, func(t *testing.T) {
			t.Parallel()
			inDM(t, func(w *world) {
				p := published(fsType)(w)
				w.must(w.node.End(w.ctx(), p.VolumeID, node.Abandoned))
				next := w.publishRequest(p.StageRequest, "next")
				// The old pod still has it. Its unpublish must not be kept out for long.
				begin := time.Now()
				err := w.node.Publish(w.ctx(), next)
				w.wantErr(err, volume.ErrPending, "has the volume open")
				if took := time.Since(begin); rpcerr.Final(err) || took > 10*time.Second {
					w.Errorf("after %v: %v", took, err)
				}
				w.unpublish(p)
				w.publish(next)
				w.wantTables("dm-0 over nvme0n1")
				w.write(next.TargetPath, "new")
				w.unpublish(next)
				w.unstage(next.StageRequest)
				w.wantView(view{Lost: "data"})
				if got := w.medium(p.StageRequest).Data(); got != "new" {
					w.Errorf("data %q", got)
				}
			})
		})
	}
}

// TestEndWhileUnstageHangs: an unstage that hangs ends with the waiting of its
// volume, wherever its I/O waits: in the table, or below it, where it was sent
// before anybody noticed.
func TestEndWhileUnstageHangs(t *testing.T) {
	t.Parallel()
	for name, o := range outages {
		if o.guard != node.GuardDM {
			continue
		}
		for _, step := range []string{"Sync", "Unmount"} {
			for _, noticed := range []bool{true, false} {
				t.Run(name+", "+step, func(t *testing.T) {
					t.Parallel()
					inDM(t, func(w *world) { endWhileUnstageHangs(w, o, step, noticed) })
				})
			}
		}
	}
}

func endWhileUnstageHangs(w *world, o outage, step string, noticed bool) {
	r, _ := used(w, "ext4")
	entered, open := w.proc.Hold(step)
	done := make(chan error, 1)
	go func() { done <- w.node.Unstage(w.within(time.Minute), r.VolumeID, r.StagingPath) }()
	<-entered
	if !noticed {
		w.machine.Cut(r.Attachment.Session.NQN)
		open()
		synctest.Wait()
	}
	o.begin(w, r)
	open()
	synctest.Wait()
	w.wantErr(w.node.End(w.ctx(), r.VolumeID, node.Abandoned), volume.ErrBusy)
	w.wantErr(<-done, volume.ErrPending)
	w.must(w.node.End(w.ctx(), r.VolumeID, node.Abandoned))
	w.unstage(r)
	v := w.look()
	v.Lost = ""
	if diff := cmp.Diff(nothing, v); diff != "" {
		w.Errorf("left behind (-want +got):\n%s", diff)
	}
}

// TestEndRepeated: the plugin died, or the kernel refused, between the record and
// the act. The next End or Unstage makes good for it, and so does a stage.
func TestEndRepeated(t *testing.T) {
	t.Parallel()
	for _, blow := range []nodetest.Blow{nodetest.KillBefore, nodetest.KillDuring, nodetest.Fail} {
		for name, call := range map[string]func(*world, node.PublishRequest){
			"end":     func(w *world, p node.PublishRequest) { w.must(w.node.End(w.ctx(), p.VolumeID, node.Expired)) },
			"unstage": func(w *world, p node.PublishRequest) { w.unpublish(p); w.unstage(p.StageRequest) },
			"stage":   func(w *world, p node.PublishRequest) { w.unpublish(p); w.stage(p.StageRequest) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				inDM(t, func(w *world) {
					p := published("ext4")(w)
					w.proc.Strike(nodetest.Fault{Step: "GiveUp", Blow: blow, Err: syscall.ENOMEM})
					if err := w.node.End(w.ctx(), p.VolumeID, node.Abandoned); err == nil || !w.proc.Struck() {
						w.Fatalf("error %v, struck %v", err, w.proc.Struck())
					}
					if blow != nodetest.Fail {
						w.restart()
					}
					w.wantState(p.VolumeID, node.Failed, "abandoned")
					w.machine.Vanish(p.Attachment.Session.NQN)
					call(w, p)
					if got := w.machine.Lost(); got != "data" {
						w.Errorf("lost %q", got)
					}
				})
			})
		}
	}
}

// TestEndShared: of two volumes in one session one is given up while the path is
// away. The other neither fails nor loses anything, and its session stays.
func TestEndShared(t *testing.T) {
	t.Parallel()
	for name, o := range outages {
		if o.guard != node.GuardDM {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inDM(t, func(w *world) { endShared(w, o) })
		})
	}
}

func endShared(w *world, o outage) {
	p := published("ext4")(w)
	other := w.publishRequest(w.stageRequest(w.host.Create(size), "xfs"), "other")
	w.stage(other.StageRequest)
	w.publish(other)
	o.begin(w, p.StageRequest)
	w.write(other.TargetPath, "kept")
	w.must(w.node.End(w.ctx(), p.VolumeID, node.Abandoned))
	w.wantState(other.VolumeID, node.Reconnecting, "nothing is lost")
	w.wantErr(w.machine.Write(p.TargetPath, "x"), syscall.EIO)
	w.unpublish(p)
	w.unstage(p.StageRequest) // with the path away
	w.wantState(other.VolumeID, node.Reconnecting, "nothing is lost")
	o.end(w, p.StageRequest)
	if n := w.machine.Ended(p.Attachment.Session.NQN); n != 0 {
		w.Errorf("the session was disconnected %d times", n)
	}
	w.wantState(other.VolumeID, node.Connected, "connected")
	// Staged again it is a volume like any other.
	w.stage(p.StageRequest)
	w.publish(p)
	w.write(p.TargetPath, "new")
	for _, x := range []node.PublishRequest{p, other} {
		w.unpublish(x)
		w.unstage(x.StageRequest)
	}
	w.wantView(view{Lost: "data"})
	if a, b := w.medium(p.StageRequest).Data(), w.medium(other.StageRequest).Data(); a != "new" || b != "kept" {
		w.Errorf("data %q and %q", a, b)
	}
}

// TestEndSharedStuckBelow: I/O that was sent to the disk before anybody noticed
// waits there, and no table can call it back. While the session is down it is
// taken down for it, if the others that want it have tables to wait in; else it
// is waited for. Nothing is taken from them.
func TestEndSharedStuckBelow(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		other node.Guard
		blow  nodetest.Blow
		held  bool // the watch was fast enough: nothing waits below
		ended int  // how often the session was disconnected for it
	}{
		"others with tables":    {other: node.GuardDM, ended: 1},
		"killed, and once more": {other: node.GuardDM, blow: nodetest.KillBefore, ended: 1},
		"another without":       {other: node.GuardKernel},
		"nothing below":         {other: node.GuardDM, held: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inDM(t, func(w *world) {
				p := published("ext4")(w)
				nqn := p.Attachment.Session.NQN
				w.host.SetGuard(c.other)
				other := w.publishRequest(w.stageRequest(w.host.Create(size), "ext4"), "other")
				w.stage(other.StageRequest)
				w.publish(other)
				w.write(other.TargetPath, "kept")
				synced := w.stuckSync(p, c.held)
				if c.blow != 0 {
					w.proc.Strike(nodetest.Fault{Step: "Disconnect", Blow: c.blow})
					w.wantErr(w.node.End(w.ctx(), p.VolumeID, node.Withdrawn), nodetest.ErrKilled)
					w.restart()
				}
				began := time.Now()
				w.must(w.node.End(w.ctx(), p.VolumeID, node.Withdrawn))
				if took := time.Since(began); took > 2*time.Second {
					w.Errorf("the end took %s", took)
				}
				if n := w.machine.Ended(nqn); n != c.ended {
					w.Errorf("the session was disconnected %d times", n)
				}
				if c.ended > 0 || c.held {
					w.wantErr(<-synced, syscall.EIO) // with the path away
					w.unpublish(p)
					w.unstage(p.StageRequest)
				}
				w.wantState(other.VolumeID, node.Reconnecting, "nothing is lost")
				w.machine.Heal(nqn)
				w.must(w.node.Restore(w.ctx(), p.Attachment.Session))
				w.feed()
				if c.ended == 0 && !c.held {
					<-synced
					w.unpublish(p)
					w.unstage(p.StageRequest)
				}
				w.unpublish(other)
				w.unstage(other.StageRequest)
				if b := w.medium(other.StageRequest).Data(); b != "kept" {
					w.Errorf("the other has %q", b)
				}
			})
		})
	}
}

// stuckSync loses the path while a pod of p is about to sync, whose I/O is at the
// disk then, or with held in the table.
func (w *world) stuckSync(p node.PublishRequest, held bool) <-chan error {
	nqn := p.Attachment.Session.NQN
	w.machine.Cut(nqn)
	if held {
		w.machine.HoldBack(nqn)
	}
	synced, pod := make(chan error, 1), w.machine.Start(nil)
	go func() { synced <- pod.Sync(p.TargetPath) }()
	synctest.Wait()
	w.machine.HoldBack(nqn)
	return synced
}

// TestEndRecordFirst: when the I/O begins to fail it is on record already that
// it must, so that nobody puts a path below the table again.
func TestEndRecordFirst(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		p := published("ext4")(w)
		w.machine.Cut(p.Attachment.Session.NQN)
		w.machine.HoldBack(p.Attachment.Session.NQN)
		w.machine.Heal(p.Attachment.Session.NQN)
		entered, open := w.proc.Hold("GiveUp")
		done := make(chan error, 1)
		go func() { done <- w.node.End(w.ctx(), p.VolumeID, node.Expired) }()
		<-entered
		w.wantErr(w.feedOne(w.record(p.VolumeID)), volume.ErrPrecondition, "its waiting has ended (expired)")
		w.wantState(p.VolumeID, node.Failed, "ctrlLossTmo")
		open()
		w.must(<-done)
		w.wantTables("dm-0 over nvme0n1, deleted, failed, given up")
	})
}

// TestEndStuckBelow: what a pod sent before anybody noticed waits at the disk, and
// for a storage host that does not come back. It ends with the session, which no
// other volume wants.
func TestEndStuckBelow(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*world, node.PublishRequest){
		"end": func(w *world, p node.PublishRequest) { w.must(w.node.End(w.ctx(), p.VolumeID, node.Expired)) },
		"end, killed": func(w *world, p node.PublishRequest) {
			w.proc.Strike(nodetest.Fault{Step: "Disconnect", Blow: nodetest.KillBefore})
			w.wantErr(w.node.End(w.ctx(), p.VolumeID, node.Expired), nodetest.ErrKilled)
			w.restart()
			w.unpublish(p)
			w.unstage(p.StageRequest)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inDM(t, func(w *world) { endStuckBelow(w, published("ext4")(w), end) })
		})
	}
	t.Run("end, and then the other", func(t *testing.T) {
		t.Parallel()
		inDM(t, func(w *world) {
			p := published("ext4")(w)
			other := w.stageRequest(w.host.Create(size), "ext4")
			w.stage(other)
			endStuckBelow(w, p, func(w *world, p node.PublishRequest) {
				w.must(w.node.End(w.ctx(), p.VolumeID, node.Expired))
				w.must(w.node.End(w.ctx(), other.VolumeID, node.Expired))
				w.unstage(other)
			})
		})
	})
}

func endStuckBelow(w *world, p node.PublishRequest, end func(*world, node.PublishRequest)) {
	w.machine.Cut(p.Attachment.Session.NQN)
	synced, pod := make(chan error, 1), w.machine.Start(nil)
	go func() { synced <- pod.Sync(p.TargetPath) }()
	synctest.Wait()
	w.machine.HoldBack(p.Attachment.Session.NQN)
	end(w, p)
	w.wantErr(<-synced, syscall.EIO)
	stageAfterEnd(w, p)
}

// TestEndSilent: the kernel has not noticed yet that the path is silent, and would
// take a minute to delete the controller with I/O under way. The end waits until
// it has noticed, and so the pod does not wait longer than that.
func TestEndSilent(t *testing.T) {
	t.Parallel()
	const keepAlive = 7 * time.Second
	for name, c := range map[string]struct {
		end   func(*world, node.PublishRequest)
		limit time.Duration
	}{
		"end": {func(w *world, p node.PublishRequest) { w.must(w.node.End(w.ctx(), p.VolumeID, node.Withdrawn)) }, keepAlive + time.Second},
		"end, no time": {func(w *world, p node.PublishRequest) {
			w.wantErr(w.node.End(w.within(time.Second), p.VolumeID, node.Withdrawn), volume.ErrPending)
			w.must(w.node.End(w.ctx(), p.VolumeID, node.Withdrawn))
		}, keepAlive + time.Second},
		"no keep-alive": {func(w *world, p node.PublishRequest) {
			w.must(w.node.End(w.within(10*patience), p.VolumeID, node.Withdrawn))
		}, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inDM(t, func(w *world) {
				p := published("ext4")(w)
				nqn := p.Attachment.Session.NQN
				w.machine.Silence(nqn)
				synced, pod := make(chan error, 1), w.machine.Start(nil)
				go func() { synced <- pod.Sync(p.TargetPath) }()
				synctest.Wait()
				if name != "no keep-alive" {
					time.AfterFunc(keepAlive, func() { w.machine.Cut(nqn) })
				}
				began := time.Now()
				c.end(w, p)
				w.wantErr(<-synced, syscall.EIO)
				if took := time.Since(began); took > c.limit {
					w.Errorf("the pod waited for %s", took)
				}
				stageAfterEnd(w, p)
			})
		})
	}
}

// TestEndKernel: without a table a volume has only its session.
func TestEndKernel(t *testing.T) {
	t.Parallel()
	t.Run("alone", func(t *testing.T) {
		t.Parallel()
		inWorld(t, func(w *world) {
			p := published("ext4")(w)
			w.machine.Cut(p.Attachment.Session.NQN)
			w.must(w.node.End(w.ctx(), p.VolumeID, node.Abandoned))
			w.wantState(p.VolumeID, node.Failed, "abandoned")
			w.wantErr(w.machine.Write(p.TargetPath, "x"), syscall.EIO)
			if got := w.look(); got.Sessions > 0 || got.Lost != "data" {
				w.Errorf("after the end: %+v", got)
			}
			// The pod's path is taken over by a stage, as that of any dead one.
			w.publish(p)
			w.write(p.TargetPath, "new")
			w.wantState(p.VolumeID, node.Connected, "connected")
			w.unpublish(p)
			w.unstage(p.StageRequest)
			w.wantView(view{Lost: "data"})
			if got := w.medium(p.StageRequest).Data(); got != "new" {
				w.Errorf("data %q", got)
			}
		})
	})
	t.Run("shared", func(t *testing.T) {
		t.Parallel()
		inWorld(t, func(w *world) {
			p := published("ext4")(w)
			w.stage(w.stageRequest(w.host.Create(size), "ext4"))
			before := w.look()
			w.wantErr(w.node.End(w.ctx(), p.VolumeID, node.Abandoned), volume.ErrPrecondition, "cannot be ended alone")
			w.wantView(before)
			w.wantState(p.VolumeID, node.Connected, "connected")
		})
	})
}

func TestEndUnknown(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		w.wantErr(w.node.End(w.ctx(), "nothing", node.Abandoned), volume.ErrNotFound)
		_, err := w.node.IsWithdrawn(w.ctx(), "nothing")
		w.wantErr(err, volume.ErrNotFound)
		w.wantErr(w.node.Proof("nothing", guard.Path{})(), volume.ErrNotFound)
		if steps := w.proc.Steps(); len(steps) > 0 {
			w.Errorf("did %v", steps)
		}
	})
}

// TestNewerGenerationHeldOpen: something outlives its pod and has the old table
// open. The newer generation does not wait for it, and shares nothing with it.
func TestNewerGenerationHeldOpen(t *testing.T) {
	t.Parallel()
	for _, fsType := range []string{"ext4", ""} {
		t.Run("fsType="+fsType, func(t *testing.T) {
			t.Parallel()
			inDM(t, func(w *world) {
				old := published(fsType)(w)
				w.machine.SetOpen("dm-0", true)
				next := w.publishRequest(w.again(old.StageRequest), "next")
				w.must(w.node.Publish(w.within(20*time.Second), next))
				w.wantTables("dm-0 over nvme0n1, deleted, failed, given up", "dm-1 over nvme0n2")
				w.write(next.TargetPath, "new")
				w.wantErr(w.proc.FlushDevice("/dev/dm-0"), syscall.EIO)
				w.removeStrays()
				if got := len(w.machine.Tables()); got != 2 {
					w.Errorf("%d tables: one that is open was removed", got)
				}
				w.machine.SetOpen("dm-0", false)
				w.removeStrays()
				w.wantTables("dm-1 over nvme0n2")
				w.unpublish(next)
				w.unstage(next.StageRequest)
				w.wantView(view{Lost: "data"})
				if got := w.medium(next.StageRequest).Data(); got != "new" {
					w.Errorf("data %q", got)
				}
			})
		})
	}
}

// TestUnstageHeldOpen: a table is not taken from under whoever has it open.
func TestUnstageHeldOpen(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		r, data := used(w, "")
		w.machine.SetOpen("dm-0", true)
		w.wantErr(w.node.Unstage(w.ctx(), r.VolumeID, r.StagingPath), volume.ErrPending, "has the volume open")
		if v := w.look(); len(v.Records) != 1 || v.Sessions != 1 || len(v.Tables) != 1 {
			w.Errorf("while it is open: %+v", v)
		}
		w.machine.SetOpen("dm-0", false)
		w.unstage(r)
		w.wantView(nothing)
		if data() != "precious" {
			w.Errorf("data %q", data())
		}
	})
}

// TestTableNumberReused: the number of the table that a record remembers is that
// of another volume's by now. An unstage waits for nothing of that.
func TestTableNumberReused(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		r := w.stageRequest(w.host.Create(size), "ext4")
		w.stage(r)
		w.must(w.node.End(w.ctx(), r.VolumeID, node.Abandoned))
		w.proc.Strike(nodetest.Fault{Step: "EnsureSession", Blow: nodetest.Fail, Err: volume.ErrUnavailable})
		w.wantErr(w.node.Stage(w.ctx(), r), volume.ErrUnavailable)
		other := w.publishRequest(w.stageRequest(w.host.Create(size), "ext4"), "other")
		w.stage(other.StageRequest)
		w.publish(other)
		w.write(other.TargetPath, "kept")
		w.proc.Strike(nodetest.Fault{Step: "Ensure", Blow: nodetest.KillAfter})
		w.wantErr(w.node.Stage(w.ctx(), r), volume.ErrPending, nodetest.ErrKilled.Error())
		w.restart()
		w.wantTables("dm-0 over nvme0n2", "dm-1 over nvme0n1")
		w.unstage(r)
		w.wantTables("dm-0 over nvme0n2")
		w.unpublish(other)
		w.unstage(other.StageRequest)
		w.wantView(nothing)
		if got := w.medium(other.StageRequest).Data(); got != "kept" {
			w.Errorf("data %q", got)
		}
	})
}

// TestProof: what is put below a table is the volume's own disk or nothing.
func TestProof(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		p := published("ext4")(w)
		w.stage(w.stageRequest(w.host.Create(size), "ext4"))
		own := guard.Path{Disk: "nvme0n1", Node: "/dev/nvme0n1", Major: 259, Minor: 1}
		w.must(w.node.Proof(p.VolumeID, own)())
		var wrong *initiator.IdentityError
		if err := w.node.Proof(p.VolumeID, guard.Path{Disk: "nvme0n2", Major: 259, Minor: 2})(); !errors.As(err, &wrong) {
			w.Errorf("another volume's disk: %v", err)
		}
		w.wantErr(w.node.Proof(p.VolumeID, guard.Path{Disk: "nvme0n1", Major: 259, Minor: 7})(), volume.ErrUnavailable, "another device number")
		w.wantErr(w.node.Proof(p.VolumeID, guard.Path{Disk: "nvme0n9"})(), volume.ErrUnavailable)
		w.machine.Vanish(p.Attachment.Session.NQN)
		w.wantErr(w.node.Proof(p.VolumeID, own)(), volume.ErrUnavailable, "nvme0n1")
	})
}

// TestEnsureProves: between the look at the device and its table another one has
// its name and its number. That is refused, and it may pass.
func TestEnsureProves(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		at, m := w.host.Static(size)
		m.Set(filesystem.Content{Kind: filesystem.Ext4})
		r := node.StageRequest{VolumeID: "static", StagingPath: w.staging("static"), FSType: "ext4", Attachment: at}
		entered, open := w.proc.Hold("Ensure")
		done := make(chan error, 1)
		go func() { done <- w.node.Stage(w.ctx(), r) }()
		<-entered
		first := w.host.Exchange(at.Session.NQN, uuid.New())
		open()
		err := <-done
		w.wantErr(err, volume.ErrPending, "UUID")
		if rpcerr.Final(err) {
			w.Errorf("final: %v", err)
		}
		w.wantTables("dm-0 over nothing")
		w.host.Exchange(at.Session.NQN, first)
		w.stage(r)
		w.wantView(w.staged())
	})
}

// TestFoundIdentity: a static volume says little about its device. What was found
// at first is what has to come back.
func TestFoundIdentity(t *testing.T) {
	t.Parallel()
	inDM(t, func(w *world) {
		at, m := w.host.Static(size)
		m.Set(filesystem.Content{Kind: filesystem.Ext4})
		p := w.publishRequest(node.StageRequest{VolumeID: "static", StagingPath: w.staging("static"), FSType: "ext4", Attachment: at}, "pod")
		w.stage(p.StageRequest)
		w.publish(p)
		w.write(p.TargetPath, "data")
		w.machine.Vanish(at.Session.NQN)
		first := w.host.Exchange(at.Session.NQN, uuid.New())
		w.must(w.node.Restore(w.ctx(), at.Session))
		var wrong *initiator.IdentityError
		if err := w.feedOne(w.record("static")); !errors.As(err, &wrong) {
			w.Errorf("another disk in its place: %v", err)
		}
		w.restart()
		w.publish(p) // it stands, and waits
		w.must(w.proc.Unmount(p.StagingPath))
		err := w.node.Stage(w.ctx(), p.StageRequest) // it does not stand, and data waits for the first one
		if !errors.As(err, &wrong) && !errors.Is(err, volume.ErrPending) || rpcerr.Final(err) {
			w.Errorf("staged over another disk: %v", err)
		}
		w.wantTables("dm-0 over nvme0n1, deleted")
		w.wantState("static", node.Reconnecting, "nothing is lost")
		w.host.Exchange(at.Session.NQN, first)
		w.feed()
		w.unpublish(p)
		w.unstage(p.StageRequest)
		w.wantView(nothing)
		if m.Data() != "data" {
			w.Errorf("data %q", m.Data())
		}
	})
}

// TestIsWithdrawn: only the storage host's word ends a publication; no answer is
// none.
func TestIsWithdrawn(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		r := w.stageRequest(w.host.Create(size), "ext4")
		at, m := w.host.Static(size)
		m.Set(filesystem.Content{Kind: filesystem.Ext4})
		w.stage(r)
		w.stage(node.StageRequest{VolumeID: "static", StagingPath: w.staging("static"), FSType: "ext4", Attachment: at})
		before := w.look()
		want := func(id string, want bool, wantErr error) {
			w.Helper()
			got, err := w.node.IsWithdrawn(w.ctx(), id)
			if got != want || !errors.Is(err, wantErr) || (err == nil) != (wantErr == nil) {
				w.Errorf("withdrawn: %v, %v; want %v, %v", got, err, want, wantErr)
			}
		}
		want("static", false, nil)
		want(r.VolumeID, false, nil)
		w.host.SetSilent(true)
		want(r.VolumeID, false, volume.ErrUnavailable)
		want("static", false, nil)
		w.wantView(before) // asking changes nothing
		w.host.SetSilent(false)
		w.host.Unpublish(r.Attachment.Managed.Ref.Volume)
		want(r.VolumeID, true, nil)
		w.host.SetSilent(true)
		want(r.VolumeID, false, volume.ErrUnavailable)
	})
}

// TestRestore connects what volumes still want, and nothing else.
func TestRestore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before   func(*world, node.StageRequest)
		sessions int
	}{
		"wanted":    {func(*world, node.StageRequest) {}, 1},
		"nobody's":  {func(w *world, r node.StageRequest) { w.unstage(r) }, 0},
		"ended":     {func(w *world, r node.StageRequest) { w.must(w.node.End(w.ctx(), r.VolumeID, node.Expired)) }, 0},
		"old boot":  {func(w *world, _ node.StageRequest) { w.reboot() }, 0},
		"restarted": {func(w *world, _ node.StageRequest) { w.restart() }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				r := w.stageRequest(w.host.Create(size), "ext4")
				w.stage(r)
				c.before(w, r)
				w.machine.Vanish(r.Attachment.Session.NQN)
				err := w.node.Restore(w.ctx(), r.Attachment.Session)
				if c.sessions > 0 {
					w.must(err)
				} else {
					w.wantErr(err, volume.ErrPrecondition, "no volume wants it")
				}
				if got := len(w.machine.Sessions()); got != c.sessions {
					w.Errorf("%d sessions, want %d", got, c.sessions)
				}
			})
		})
	}
}

// TestRestoreDuringLastUnstage: the unstage goes first, and then nobody wants the
// session; or the time of the Restore is over before.
func TestRestoreDuringLastUnstage(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		r, _ := used(w, "ext4")
		entered, open := w.proc.Hold("Disconnect")
		unstaged, restored := make(chan error, 1), make(chan error, 1)
		go func() { unstaged <- w.node.Unstage(w.ctx(), r.VolumeID, r.StagingPath) }()
		<-entered
		w.wantErr(w.node.Restore(w.within(time.Second), r.Attachment.Session), volume.ErrPending)
		go func() { restored <- w.node.Restore(w.ctx(), r.Attachment.Session) }()
		synctest.Wait()
		open()
		w.must(<-unstaged)
		w.wantErr(<-restored, volume.ErrPrecondition)
		w.wantView(nothing)
	})
}

// TestTableOfAnEarlierBoot: nothing of it is left, and nobody asks the device
// mapper for it.
func TestTableOfAnEarlierBoot(t *testing.T) {
	t.Parallel()
	for _, why := range []node.Ending{node.NotEnded, node.Abandoned} {
		t.Run("ended="+string(why), func(t *testing.T) {
			t.Parallel()
			inDM(t, func(w *world) {
				p := published("ext4")(w)
				w.must(w.proc.Sync(p.StagingPath))
				if why != node.NotEnded {
					w.must(w.node.End(w.ctx(), p.VolumeID, why))
				}
				w.reboot()
				if left := w.node.Records(); len(left) > 0 {
					w.Errorf("records of an earlier boot: %+v", left)
				}
				w.proc.Strike(nodetest.Fault{})
				w.stage(p.StageRequest)
				w.wantChanges("EnsureSession", "WaitNamespace", "Ensure", "MountDevice")
				w.wantView(w.staged())
				w.publish(p)
				w.write(p.TargetPath, " and more")
				w.must(w.proc.Sync(p.StagingPath))
				w.reboot()
				w.wantErr(w.node.End(w.ctx(), p.VolumeID, node.Abandoned), volume.ErrNotFound)
				w.proc.Strike(nodetest.Fault{})
				w.unpublish(p)
				w.unstage(p.StageRequest)
				w.wantChanges()
				w.wantView(nothing)
				if got := w.medium(p.StageRequest).Data(); got != "data and more" {
					w.Errorf("data %q", got)
				}
			})
		})
	}
}
