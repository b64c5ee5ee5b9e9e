package node_test

import (
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// A file system that has stopped on a disk that is well again: it is said, no
// further pod gets it, it is staged anew once the last pod that has it has ended,
// and an unstage ends.
func TestStoppedFileSystem(t *testing.T) {
	t.Parallel()
	for name, restage := range map[string]bool{"published anew": true, "unstaged": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorlds(t, func(w *world) {
				r := w.stageRequest(w.host.Create(size), "ext4")
				w.stage(r)
				a, b := w.publishRequest(r, "a"), w.publishRequest(r, "b")
				w.publish(a)
				w.write(a.TargetPath, "x")
				w.machine.Stop(r.StagingPath)

				c, err := w.node.Condition(w.ctx(), r.VolumeID)
				if err != nil || c.State != node.Failed || !strings.Contains(c.Message, "an I/O error has stopped the ext4 file system") {
					w.Errorf("condition %+v, %v", c, err)
				}
				w.wantErr(w.node.Publish(w.ctx(), b), volume.ErrUnavailable, "has stopped its ext4 file system", a.TargetPath)
				w.wantErr(w.node.Stage(w.ctx(), r), volume.ErrUnavailable, "has stopped its ext4 file system")
				w.restart() // what a new process knows is the same
				w.wantErr(w.node.Publish(w.ctx(), b), volume.ErrUnavailable, "has stopped its ext4 file system")
				w.unpublish(a)
				if restage {
					w.publish(b)
					w.write(b.TargetPath, "y")
					if c, err := w.node.Condition(w.ctx(), r.VolumeID); err != nil || c.State != node.Connected {
						w.Errorf("staged anew: condition %+v, %v", c, err)
					}
					w.unpublish(b)
				}
				w.unstage(r)
				w.wantView(view{Lost: "x"}) // which the pod was told
			})
		})
	}
}
