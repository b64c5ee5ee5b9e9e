package sanity

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/node/nodetest"
)

// TestGenerations: the volume is taken from the node and given to it again while
// the pod's view is up, and the kubelet only publishes. The fence holds, and the
// new view is that of the new publication.
func TestGenerations(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.must(s.machine.Write(s.path("pod"), "too late"))
	_, err := s.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: s.used.GetVolumeId(), NodeId: nodeID})
	s.must(err)
	s.wantHealth(csi.VolumeHealthErrorType_DEGRADED)
	// The watch hears of it, and its grace is over.
	s.must(s.flow.End(t.Context(), s.used.GetVolumeId(), node.Withdrawn))
	s.wantHealth(csi.VolumeHealthErrorType_INACCESSIBLE)
	old := s.publishRequest()
	s.usedContext = s.attach(s.used)
	if s.usedContext["generation"] != "2" {
		t.Errorf("publish context %v", s.usedContext)
	}
	_, err = s.NodePublishVolume(t.Context(), s.publishRequest())
	s.must(err)
	if _, err := s.NodePublishVolume(t.Context(), old); err == nil {
		t.Error("the older generation was published")
	}
	s.must(s.machine.Write(s.path("pod"), "new"))
	s.finish()
	if got := s.machine.Lost(); got != "too late" {
		t.Errorf("lost %q", got)
	}
}

// wantHealth is of the volume in use.
func (s *scene) wantHealth(want csi.VolumeHealthErrorType) {
	s.Helper()
	health, err := s.NodeGetVolumeHealth(s.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: s.used.GetVolumeId()})
	s.must(err)
	if h := health.GetVolumeHealth().GetHealthStatuses(); len(h) != 1 || h[0].GetStatus() != want {
		s.Errorf("health %v, want %v", health, want)
	}
}

// finish takes the volume in use from the node, and deletes it.
func (s *scene) finish() {
	s.Helper()
	id := s.used.GetVolumeId()
	_, err := s.NodeUnpublishVolume(s.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: s.path("pod")})
	s.must(err)
	_, err = s.NodeUnstageVolume(s.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: s.path("stage")})
	s.must(err)
	_, err = s.ControllerUnpublishVolume(s.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: nodeID})
	s.must(err)
	_, err = s.DeleteVolume(s.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
	s.must(err)
	w := s.look()
	if len(w.Mounts) > 0 || len(w.Records) > 0 || len(w.Sessions) > 0 || len(w.Tables) > 0 || slices.ContainsFunc(w.Files, func(f string) bool { return strings.Contains(f, uuidOf(id)) }) {
		s.Errorf("left %+v", w)
	}
}

// TestFormatOnce: the volume is formatted at its first stage and at no other,
// also when the node has forgotten everything.
func TestFormatOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	v, err := s.agent.List(t.Context(), [16]byte{}, 0)
	s.must(err)
	for _, x := range v {
		if x.Formatting {
			t.Errorf("a format is on record: %+v", x)
		}
	}
	content := func() filesystem.Content {
		t.Helper()
		for _, f := range s.look().Files {
			if strings.Contains(f, uuidOf(s.used.GetVolumeId())) {
				c, err := nodetest.File{Path: f}.Probe()
				s.must(err)
				return c
			}
		}
		t.Fatal("no file of the volume")
		return filesystem.Content{}
	}
	if c := content(); c.Kind != filesystem.Ext4 {
		t.Fatalf("content %+v", c)
	}
	s.must(s.machine.Write(s.path("pod"), "kept"))
	s.must(s.machine.Start(nil).Sync(s.path("stage")))
	before := s.fileOf(s.used)
	_, err = s.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: s.used.GetVolumeId(), TargetPath: s.path("pod")})
	s.must(err)
	_, err = s.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: s.used.GetVolumeId(), StagingTargetPath: s.path("stage")})
	s.must(err)
	_, err = s.NodeStageVolume(t.Context(), s.stageRequest(s.used, s.usedContext))
	s.must(err)
	if !bytes.Equal(before, s.fileOf(s.used)) {
		t.Error("the second stage wrote to the volume")
	}
	s.finish()
}

func (s *scene) fileOf(v *csi.Volume) []byte {
	s.Helper()
	for _, f := range s.look().Files {
		if strings.Contains(f, uuidOf(v.GetVolumeId())) {
			b, err := os.ReadFile(f)
			s.must(err)
			return b
		}
	}
	s.Fatal("no file of the volume")
	return nil
}

// TestReadOnlyFlag: "ro" among the mount options of a PersistentVolume is a
// read-only volume like any other: never formatted, and published once is
// published.
func TestReadOnlyFlag(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	stage := s.stageRequest(s.attached, s.attachedContext)
	stage.StagingTargetPath, stage.VolumeCapability = s.path("ro"), fileSystem("ext4", "noatime", "ro")
	before := s.look()
	if _, err := s.NodeStageVolume(t.Context(), stage); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a blank volume: %v", err)
	}
	if diff := cmp.Diff(before, s.look()); diff != "" {
		t.Errorf("something changed:\n%s", diff)
	}
	rw := s.stageRequest(s.attached, s.attachedContext)
	rw.StagingTargetPath = s.path("ro")
	_, err := s.NodeStageVolume(t.Context(), rw)
	s.must(err)
	_, err = s.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: rw.GetVolumeId(), StagingTargetPath: s.path("ro")})
	s.must(err)
	_, err = s.NodeStageVolume(t.Context(), stage)
	s.must(err)
	publish := &csi.NodePublishVolumeRequest{
		VolumeId: stage.GetVolumeId(), StagingTargetPath: s.path("ro"), TargetPath: s.path("ro pod"), VolumeCapability: stage.GetVolumeCapability(),
		VolumeContext: stage.GetVolumeContext(), PublishContext: stage.GetPublishContext(),
	}
	_, err = s.NodePublishVolume(t.Context(), publish)
	s.must(err)
	mounts := s.machine.Mounted()
	s.machine.SetBusy(s.path("ro pod"), true) // it cannot be taken down and made again
	_, err = s.NodePublishVolume(t.Context(), publish)
	s.must(err)
	if diff := cmp.Diff(mounts, s.machine.Mounted()); diff != "" {
		t.Errorf("published again:\n%s", diff)
	}
	for _, m := range mounts {
		if strings.HasPrefix(m, s.path("ro")) && !strings.HasSuffix(m, " ro") {
			t.Errorf("mounted as %s", m)
		}
	}
}
