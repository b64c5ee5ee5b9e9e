package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/node/nodetest"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

func TestPublish(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fsType  string
		change  func(*node.PublishRequest)
		content filesystem.Kind
		want    []string // mounts
	}{
		"file system": {fsType: "ext4", want: []string{"STAGING ext4 DISK rw", "pods/a/mount ext4 DISK rw"}},
		"read-only pod": {
			fsType: "ext4", change: func(r *node.PublishRequest) { r.TargetReadOnly = true },
			want: []string{"STAGING ext4 DISK rw", "pods/a/mount ext4 DISK ro"},
		},
		"read-only stage": {
			fsType: "xfs", content: filesystem.XFS, change: func(r *node.PublishRequest) { r.ReadOnly, r.TargetReadOnly = true, true },
			want: []string{"STAGING xfs DISK ro", "pods/a/mount xfs DISK ro"},
		},
		"read-only stage, pod does not say so": {
			fsType: "xfs", content: filesystem.XFS, change: func(r *node.PublishRequest) { r.ReadOnly = true },
			want: []string{"STAGING xfs DISK ro", "pods/a/mount xfs DISK ro"},
		},
		"block":           {want: []string{"pods/a/mount devtmpfs /DISK rw"}},
		"read-only block": {change: func(r *node.PublishRequest) { r.TargetReadOnly = true }, want: []string{"pods/a/mount devtmpfs /DISK ro"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				id := w.host.Create(size)
				if c.content != "" {
					w.host.Medium(id).Set(filesystem.Content{Kind: c.content})
				}
				p := w.publishRequest(w.stageRequest(id, c.fsType), "a")
				if c.change != nil {
					c.change(&p)
				}
				w.stage(p.StageRequest)
				w.publish(p)
				if diff := cmp.Diff(w.allNamed(c.want), w.look().Mounts); diff != "" {
					w.Fatalf("-want +got:\n%s", diff)
				}
				info, err := os.Stat(p.TargetPath)
				if err != nil || info.IsDir() != (c.fsType != "") {
					w.Errorf("target: %v %v", info, err)
				}
				w.proc.Strike(nodetest.Fault{})
				w.publish(p)
				if again := changes(w.proc.Steps()); len(again) > 0 {
					w.Errorf("the second call did %v", again)
				}
				w.unpublish(p)
				if exists(p.TargetPath) {
					w.Error("the target path is still there")
				}
				w.unpublish(p)
				w.unstage(p.StageRequest)
				w.wantView(nothing)
			})
		})
	}
}

func TestPublishUnstaged(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		p := w.publishRequest(w.stageRequest(w.host.Create(size), "ext4"), "a")
		w.wantErr(w.node.Publish(w.ctx(), p), volume.ErrPrecondition, p.VolumeID)
		if exists(p.TargetPath) {
			t.Error("the target path was made")
		}
		w.wantView(nothing)
	})
}

// TestPublishTwoPods: pods of one node share a volume unless the access mode
// says that there is one only.
func TestPublishTwoPods(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		r := w.stageRequest(w.host.Create(size), "ext4")
		a, b := w.publishRequest(r, "a"), w.publishRequest(r, "b")
		w.stage(r)
		w.publish(a)
		w.publish(b)
		b.Exclusive = true
		w.wantErr(w.node.Publish(w.ctx(), b), volume.ErrPrecondition, a.TargetPath)
		w.unpublish(a)
		w.publish(b)
		w.wantErr(w.node.Unstage(w.ctx(), r.VolumeID, r.StagingPath), volume.ErrUnavailable, b.TargetPath)
		w.unpublish(b)
		w.unstage(r)
		w.wantView(nothing)
	})
}

// TestPublishExclusive: only what is really there counts, so that a publish
// that failed, or a reboot, does not keep a volume from its next pod.
func TestPublishExclusive(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		r := w.stageRequest(w.host.Create(size), "ext4")
		a, b := w.publishRequest(r, "a"), w.publishRequest(r, "b")
		a.Exclusive, b.Exclusive = true, true
		w.stage(r)
		w.publish(a)
		w.publish(a)
		w.unpublish(a)
		w.proc.Strike(nodetest.Fault{Step: "Bind", Blow: nodetest.Fail, Err: syscall.ENOMEM})
		w.wantErr(w.node.Publish(w.ctx(), a), volume.ErrUnavailable)
		w.publish(b)
		w.wantErr(w.node.Publish(w.ctx(), a), volume.ErrPrecondition, b.TargetPath)
		w.reboot()
		w.stage(r)
		w.publish(a)
		if got, want := w.look().Mounts, w.allNamed([]string{"STAGING ext4 DISK rw", "pods/a/mount ext4 DISK rw"}); cmp.Diff(want, got) != "" {
			w.Errorf("mounts %v", got)
		}
	})
}

// TestPublishReplaces: a mount at the path that shows something else is no
// publication.
func TestPublishReplaces(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		r := w.stageRequest(w.host.Create(size), "ext4")
		p := w.publishRequest(r, "a")
		w.stage(r)
		w.must(os.MkdirAll(p.TargetPath, 0o750))
		w.must(w.proc.Bind(w.root, p.TargetPath, false)) // somebody's directory
		w.publish(p)
		if got, want := w.look().Mounts, w.allNamed([]string{"STAGING ext4 DISK rw", "pods/a/mount ext4 DISK rw"}); cmp.Diff(want, got) != "" {
			w.Errorf("mounts %v", got)
		}
		p.TargetReadOnly = true // and so is one with another mode
		w.publish(p)
		if got, want := w.look().Mounts, w.allNamed([]string{"STAGING ext4 DISK rw", "pods/a/mount ext4 DISK ro"}); cmp.Diff(want, got) != "" {
			w.Errorf("mounts %v", got)
		}
	})
}

// TestPublishBlockDeviceAgain: a bind of a device node that the kernel deleted
// is not that of the device of the same name that came after it.
func TestPublishBlockDeviceAgain(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		id := w.host.Create(size)
		p := w.publishRequest(w.stageRequest(id, ""), "a")
		w.stage(p.StageRequest)
		w.publish(p)
		w.machine.Vanish(p.Attachment.Session.NQN)
		w.stage(p.StageRequest)
		w.publish(p)
		if got, want := w.look().Mounts, []string{"pods/a/mount devtmpfs /nvme0n1 rw"}; cmp.Diff(want, got) != "" {
			t.Errorf("mounts %v", got)
		}
		w.write(p.TargetPath, "x")
		w.unpublish(p)
		w.unstage(p.StageRequest)
		w.wantView(nothing)
		if got := w.host.Medium(id).Data(); got != "x" {
			t.Errorf("data %q", got)
		}
	})
}

func TestUnpublish(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		r := w.stageRequest(w.host.Create(size), "ext4")
		p := w.publishRequest(r, "a")
		// A volume that nobody knows, and a path where nothing is.
		w.must(w.node.Unpublish(w.ctx(), p.VolumeID, p.TargetPath))
		w.stage(r)
		w.publish(p)
		w.machine.SetBusy(p.TargetPath, true)
		err := w.node.Unpublish(w.ctx(), p.VolumeID, p.TargetPath)
		if !errors.Is(err, syscall.EBUSY) || !exists(p.TargetPath) || len(w.look().Mounts) != 2 {
			w.Errorf("busy: %v, %+v", err, w.look())
		}
		w.machine.SetBusy(p.TargetPath, false)
		w.unpublish(p)
		// What is in the directory below is not ours.
		w.must(os.MkdirAll(filepath.Join(p.TargetPath, "kept"), 0o750))
		w.wantErr(w.node.Unpublish(w.ctx(), p.VolumeID, p.TargetPath), volume.ErrUnavailable)
		if !exists(filepath.Join(p.TargetPath, "kept")) {
			w.Error("a directory that is not ours was removed")
		}
	})
}

func TestConditionAndStats(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		fs, raw := w.publishRequest(w.stageRequest(w.host.Create(size), "ext4"), "a"), w.publishRequest(w.stageRequest(w.host.Create(size), ""), "b")
		for _, p := range []node.PublishRequest{fs, raw} {
			w.stage(p.StageRequest)
			w.publish(p)
		}
		_, err := w.node.Condition(w.ctx(), "nothing")
		w.wantErr(err, volume.ErrNotFound)
		_, err = w.node.Stats(w.ctx(), "nothing", "/x")
		w.wantErr(err, volume.ErrNotFound)
		_, err = w.node.Stats(w.ctx(), fs.VolumeID, raw.TargetPath)
		w.wantErr(err, volume.ErrNotFound, raw.TargetPath)

		usage := func(p node.PublishRequest, path string) *filesystem.Usage {
			w.Helper()
			u, err := w.node.Stats(w.ctx(), p.VolumeID, path)
			w.must(err)
			return u
		}
		if u := usage(fs, fs.StagingPath); u == nil || u.TotalBytes != size || u.TotalInodes != 100 {
			w.Errorf("usage %+v", u)
		}
		if u := usage(raw, raw.TargetPath); u == nil || *u != (filesystem.Usage{TotalBytes: size}) {
			w.Errorf("usage %+v", u)
		}
		// As the kubelet asks for a block volume: at a bind mount of its own.
		own := filepath.Join(w.TempDir(), "pod")
		w.must(filesystem.MakeFile(own))
		w.must(w.proc.Bind(raw.TargetPath, own, false))
		if u := usage(raw, own); u == nil || *u != (filesystem.Usage{TotalBytes: size}) {
			w.Errorf("usage %+v", u)
		}
		_, err = w.node.Stats(w.ctx(), fs.VolumeID, own)
		w.wantErr(err, volume.ErrNotFound, own)
		deleted := node.Condition{State: node.Lost, Message: "deleted"}
		if w.guard == node.GuardDM {
			deleted = node.Condition{State: node.Reconnecting, Message: "nothing is lost"}
		}
		for _, step := range []struct {
			do   func(string)
			want node.State
			says string
		}{
			{func(string) {}, node.Connected, "connected"},
			{w.machine.Cut, node.Reconnecting, "nothing is lost"},
			{w.machine.Heal, node.Connected, "connected"},
			{w.machine.Vanish, deleted.State, deleted.Message},
		} {
			step.do(fs.Attachment.Session.NQN)
			c, err := w.node.Condition(w.ctx(), fs.VolumeID)
			if err != nil || c.State != step.want || !strings.Contains(c.Message, step.says) {
				w.Errorf("condition %+v, %v; want %s", c, err, step.want)
			}
			if u := usage(fs, fs.TargetPath); (u != nil) != (step.want == node.Connected) {
				w.Errorf("%s: usage %+v", step.want, u)
			}
		}
	})
}

// TestStatsPathDies: the path is live when sysfs is read and dead when the file
// system is looked at. The answer comes all the same, and one look hangs, not
// one for every call.
func TestStatsPathDies(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		p := w.publishRequest(w.stageRequest(w.host.Create(size), "ext4"), "a")
		w.stage(p.StageRequest)
		w.publish(p)
		entered, open := w.proc.Hold("Stat")
		defer open()
		for range 3 {
			u, err := w.node.Stats(w.Context(), p.VolumeID, p.TargetPath)
			if u != nil || err != nil {
				w.Errorf("usage %+v, %v", u, err)
			}
		}
		<-entered
		looks := 0
		for _, s := range w.proc.Steps() {
			if s == "Stat" {
				looks++
			}
		}
		if looks != 1 {
			w.Errorf("%d looks hang, want 1", looks)
		}
	})
}
