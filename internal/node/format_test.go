package node_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/node/nodetest"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// TestFormatRefusedWritesNothing: whatever makes a format impossible, the device
// and the host's record stay as they were.
func TestFormatRefusedWritesNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*world, *node.StageRequest, *nodetest.Memory)
		want  error
	}{
		"written in the middle": {func(_ *world, _ *node.StageRequest, m *nodetest.Memory) { m.SetWritten() }, volume.ErrPrecondition},
		"something at the ends": {func(_ *world, _ *node.StageRequest, m *nodetest.Memory) {
			m.Set(filesystem.Content{Kind: filesystem.Other, Detail: "bytes"})
		}, volume.ErrPrecondition},
		"another file system": {func(_ *world, _ *node.StageRequest, m *nodetest.Memory) {
			m.Set(filesystem.Content{Kind: filesystem.XFS, Detail: "xfs"})
		}, volume.ErrPrecondition},
		"not readable":  {func(_ *world, _ *node.StageRequest, m *nodetest.Memory) { m.FailReads(syscall.EIO) }, volume.ErrUnavailable},
		"read-only":     {func(_ *world, r *node.StageRequest, _ *nodetest.Memory) { r.ReadOnly = true }, volume.ErrPrecondition},
		"agent silent":  {func(w *world, _ *node.StageRequest, _ *nodetest.Memory) { w.host.SetSilent(true) }, volume.ErrUnavailable},
		"unknown agent": {func(_ *world, r *node.StageRequest, _ *nodetest.Memory) { r.Attachment.Managed.Host = "box9" }, volume.ErrUnavailable},
		"withdrawn":     {func(_ *world, r *node.StageRequest, _ *nodetest.Memory) { r.Attachment.Managed.Ref.Generation++ }, volume.ErrEnded},
		"agent silent only for the permission": {func(w *world, _ *node.StageRequest, _ *nodetest.Memory) {
			entered, open := w.proc.Hold("BeginFormat")
			go func() { <-entered; w.host.SetSilent(true); open() }()
		}, volume.ErrUnavailable},
		"written between the question and the permission": {func(w *world, _ *node.StageRequest, m *nodetest.Memory) {
			entered, open := w.proc.Hold("BeginFormat")
			go func() { <-entered; m.SetWritten(); open() }()
		}, volume.ErrNotBlank},
		"withdrawn before the permission": {func(w *world, r *node.StageRequest, _ *nodetest.Memory) {
			entered, open := w.proc.Hold("BeginFormat")
			go func() { <-entered; w.host.Unpublish(r.Attachment.Managed.Ref.Volume); open() }()
		}, volume.ErrEnded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				id := w.host.Create(size)
				r := w.stageRequest(id, "ext4")
				m := w.host.Medium(id)
				c.spoil(w, &r, m)
				before, _ := m.Probe()
				err := w.node.Stage(w.ctx(), r)
				w.wantErr(err, c.want)
				after, _ := m.Probe()
				if diff := cmp.Diff(before, after); diff != "" || m.Formats() > 0 || w.host.Formatting(id) {
					t.Errorf("written: %s; formats %d, on record %v", diff, m.Formats(), w.host.Formatting(id))
				}
				wantUnusable(t, w, r, errors.Is(c.want, volume.ErrPrecondition))
				if v := w.look(); len(v.Mounts) > 0 || rpcerr.Final(err) && len(v.Records) > 0 {
					t.Errorf("left %+v", v)
				}
			})
		})
	}
}

// wantUnusable: what was refused for what it holds is told while it is asked for, and
// nothing else is.
func wantUnusable(t *testing.T, w *world, r node.StageRequest, want bool) {
	t.Helper()
	var is bool
	for _, u := range w.node.Unusable() {
		is = u.Stage.VolumeID == r.VolumeID && u.Why != "" && !strings.HasSuffix(u.Why, volume.ErrPrecondition.Error())
	}
	if is != want {
		t.Errorf("unusable: %v", w.node.Unusable())
	}
	time.Sleep(6 * time.Minute)
	if left := w.node.Unusable(); len(left) > 0 {
		t.Errorf("still told: %v", left)
	}
}

// TestFormatFails: a failure once the permission is given is never final, and
// the next call formats again.
func TestFormatFails(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"Format", "FlushDevice", "EndFormat"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				id := w.host.Create(size)
				r := w.stageRequest(id, "ext4")
				w.proc.Strike(nodetest.Fault{Step: step, Blow: nodetest.Fail, Err: errors.New("failed")})
				err := w.node.Stage(w.ctx(), r)
				if err == nil || rpcerr.Final(err) || !w.proc.Struck() {
					w.Fatal(err)
				}
				if v := w.look(); len(v.Mounts) > 0 || !w.host.Formatting(id) {
					w.Errorf("after the failure: %+v, on record %v", v, w.host.Formatting(id))
				}
				w.stage(r)
				w.wantView(w.staged())
				if w.host.Formatting(id) {
					w.Error("the format is still on record")
				}
			})
		})
	}
}

// TestFormatOnAnotherNode: the permission outlives the publication it was given
// to, so that the node that comes next finishes the format.
func TestFormatOnAnotherNode(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		id := w.host.Create(size)
		w.host.SetFormatting(id, true)
		w.must(w.host.Medium(id).Tear())
		r := w.stageRequest(id, "xfs")
		w.stage(r)
		if m := w.host.Medium(id); m.Kind() != filesystem.XFS || m.Formats() != 1 || w.host.Formatting(id) {
			w.Errorf("%s, formatted %d times, on record %v", m.Kind(), m.Formats(), w.host.Formatting(id))
		}
	})
}

// TestFormatStatic: a volume of somebody else's target is formatted only when
// it was allowed and every byte was read as zero.
func TestFormatStatic(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		allowed bool
		content filesystem.Kind
		written bool
		torn    bool
		want    error
		formats int
	}{
		"allowed and zero":              {allowed: true, formats: 1},
		"not allowed":                   {want: volume.ErrPrecondition},
		"allowed, written in between":   {allowed: true, written: true, want: volume.ErrPrecondition},
		"allowed, a file system":        {allowed: true, content: filesystem.Ext4},
		"allowed, another":              {allowed: true, content: filesystem.XFS, want: volume.ErrPrecondition},
		"allowed, something":            {allowed: true, content: filesystem.Other, want: volume.ErrPrecondition},
		"not allowed, a file system":    {content: filesystem.Ext4},
		"allowed, half a format before": {allowed: true, torn: true, want: volume.ErrPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				at, m := w.host.Static(size)
				at.FormatZeroed = c.allowed
				if c.content != "" {
					m.Set(filesystem.Content{Kind: c.content, Detail: "content"})
				}
				if c.written {
					m.SetWritten()
				}
				if c.torn {
					w.must(m.Tear())
				}
				r := node.StageRequest{VolumeID: "static", StagingPath: w.staging("static"), FSType: "ext4", Attachment: at}
				err := w.node.Stage(w.ctx(), r)
				if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
					t.Fatalf("error %v, want %v", err, c.want)
				}
				if m.Formats() != c.formats {
					t.Errorf("formatted %d times, want %d", m.Formats(), c.formats)
				}
				if c.want != nil {
					w.wantView(nothing)
					return
				}
				w.unstage(r)
				w.wantView(nothing)
			})
		})
	}
}
