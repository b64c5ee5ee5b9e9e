package node_test

import (
	"testing"

	"github.com/holdfast-csi/holdfast/internal/node"
)

// TestEndOfAnother: the end of a publication that has been replaced meanwhile, or
// the repetition of an end that is over, does not touch the one that lives.
func TestEndOfAnother(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		old := w.stageRequest(w.host.Create(size), "ext4")
		w.stage(old)
		next := w.again(old)
		w.stage(next)
		was, is := old.Attachment.Generation(), next.Attachment.Generation()
		w.must(w.node.EndGeneration(w.ctx(), old.VolumeID, was, node.Withdrawn))
		w.must(w.node.EndAgain(w.ctx(), old.VolumeID, was))
		w.must(w.node.EndAgain(w.ctx(), old.VolumeID, is))
		if got := w.record(old.VolumeID).Ended; got != node.NotEnded {
			w.Errorf("ended: %s", got)
		}
		w.write(next.StagingPath, "goes on")
		w.must(w.proc.Sync(next.StagingPath))
		w.must(w.node.EndGeneration(w.ctx(), old.VolumeID, is, node.Withdrawn))
		w.must(w.node.EndAgain(w.ctx(), old.VolumeID, is))
		if got := w.record(old.VolumeID).Ended; got != node.Withdrawn {
			w.Errorf("not ended: %q", got)
		}
	})
}
