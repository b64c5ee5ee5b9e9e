package sanity

import (
	"context"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"
)

// stages is a NodeStageVolume of the attached volume at a path of its own,
// changed.
func stages(change func(*csi.NodeStageVolumeRequest)) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		req := s.stageRequest(s.attached, s.attachedContext)
		req.StagingTargetPath = s.path("stage of attached")
		change(req)
		_, err := s.NodeStageVolume(ctx, req)
		return err
	}
}

// context changes one key of the publish context.
func publishContext(key, value string) func(context.Context, *scene) error {
	return stages(func(r *csi.NodeStageVolumeRequest) { r.PublishContext[key] = value })
}

// restages is a NodeStageVolume of the volume in use, changed.
func restages(change func(*scene, *csi.NodeStageVolumeRequest)) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		req := s.stageRequest(s.used, s.usedContext)
		change(s, req)
		_, err := s.NodeStageVolume(ctx, req)
		return err
	}
}

func publishes(change func(*scene, *csi.NodePublishVolumeRequest)) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		req := s.publishRequest()
		change(s, req)
		_, err := s.NodePublishVolume(ctx, req)
		return err
	}
}

func static(change map[string]string) func(context.Context, *scene) error {
	return stages(func(r *csi.NodeStageVolumeRequest) {
		r.VolumeId, r.PublishContext = "static", nil
		r.VolumeContext = map[string]string{"nqn": "nqn.2020-01.org.example:x", "addresses": "10.0.0.2", "nsid": "1"}
		for k, v := range change {
			r.VolumeContext[k] = v
		}
	})
}

// nodeRequests is a function because some rows are made of others.
func nodeRequests() []request {
	return append(append(stageRequests, contextRequests()...), podRequests...)
}

var stageRequests = []request{
	{"stage nothing", stages(func(r *csi.NodeStageVolumeRequest) { r.VolumeId = "" }), "InvalidArgument", []string{"volume ID"}},
	{"stage nowhere", stages(func(r *csi.NodeStageVolumeRequest) { r.StagingTargetPath = "" }), "InvalidArgument", []string{"staging target path"}},
	{"stage at a relative path", stages(func(r *csi.NodeStageVolumeRequest) { r.StagingTargetPath = "stage" }), "InvalidArgument", []string{"staging path", `"stage"`, "absolute"}},
	{"stage at a path with dots", stages(func(r *csi.NodeStageVolumeRequest) { r.StagingTargetPath = "/var/../etc" }), "InvalidArgument", []string{`"/var/../etc"`}},
	{"stage at the root", stages(func(r *csi.NodeStageVolumeRequest) { r.StagingTargetPath = "/" }), "InvalidArgument", []string{`"/"`}},
	{"stage without a capability", stages(func(r *csi.NodeStageVolumeRequest) { r.VolumeCapability = nil }), "InvalidArgument", []string{"capability"}},
	{"stage for many nodes", stages(func(r *csi.NodeStageVolumeRequest) {
		r.VolumeCapability = mode(csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER)
	}), "InvalidArgument", []string{"MULTI_NODE_SINGLE_WRITER"}},
	{"stage as ntfs", stages(func(r *csi.NodeStageVolumeRequest) { r.VolumeCapability = fileSystem("ntfs") }), "InvalidArgument", []string{`"ntfs"`}},
	{"stage with another device", stages(func(r *csi.NodeStageVolumeRequest) { r.VolumeCapability = fileSystem("ext4", "journal_path=/dev/sda") }), "InvalidArgument", []string{`"journal_path"`, `"/dev/sda"`}},
	{"stage that shares its mounts", stages(func(r *csi.NodeStageVolumeRequest) { r.VolumeCapability = fileSystem("ext4", "unbindable") }), "InvalidArgument", []string{`"unbindable"`}},
	{"stage with broken options", stages(func(r *csi.NodeStageVolumeRequest) { r.VolumeContext["nrIOQueues"] = "many" }), "InvalidArgument", []string{"volume context", "nrIOQueues", `"many"`}},
	{"stage without a publish context", stages(func(r *csi.NodeStageVolumeRequest) { r.PublishContext = nil }), "InvalidArgument", []string{"publish context"}},
	{"stage one volume as another", func(ctx context.Context, s *scene) error {
		req := s.stageRequest(s.spare, s.attachedContext)
		_, err := s.NodeStageVolume(ctx, req)
		return err
	}, "InvalidArgument", []string{"publish context", "uuid"}},
	{"stage our volume as static", func(ctx context.Context, s *scene) error {
		req := s.stageRequest(s.spare, nil)
		req.VolumeContext = map[string]string{"nqn": "nqn.2020-01.org.example:x", "addresses": "10.0.0.2", "nsid": "1", "formatIfZero": "true"}
		_, err := s.NodeStageVolume(ctx, req)
		return err
	}, "InvalidArgument", []string{"another handle"}},
	{"stage with another's token", func(ctx context.Context, s *scene) error {
		req := s.stageRequest(s.attached, s.attachedContext)
		req.StagingTargetPath, req.PublishContext["token"] = s.path("new"), s.usedContext["token"]
		_, err := s.NodeStageVolume(ctx, req)
		return err
	}, "PermissionDenied", []string{"token"}},
	{"stage with another's namespace", func(ctx context.Context, s *scene) error {
		req := s.stageRequest(s.attached, s.attachedContext)
		req.StagingTargetPath, req.PublishContext["nsid"] = s.path("new"), s.usedContext["nsid"]
		_, err := s.NodeStageVolume(ctx, req)
		return err
	}, "FailedPrecondition", []string{"not the volume", "UUID"}},
	{"stage the volume in use elsewhere", restages(func(s *scene, r *csi.NodeStageVolumeRequest) { r.StagingTargetPath = s.path("elsewhere") }), "AlreadyExists", []string{"unstage it"}},
	{"stage the volume in use as xfs", restages(func(_ *scene, r *csi.NodeStageVolumeRequest) { r.VolumeCapability = fileSystem("xfs") }), "AlreadyExists", []string{"ext4"}},
	{"stage the volume in use with flags", restages(func(_ *scene, r *csi.NodeStageVolumeRequest) { r.VolumeCapability = fileSystem("ext4", "noatime") }), "AlreadyExists", nil},

	{"stage static without an NQN", static(map[string]string{"nqn": ""}), "InvalidArgument", []string{"key nqn"}},
	{"stage static with a broken NQN", static(map[string]string{"nqn": "nqn.2020-13.org.example:x"}), "InvalidArgument", []string{`"nqn.2020-13.org.example:x"`}},
	{"stage static with options in the NQN", static(map[string]string{"nqn": "nqn.2020-01.org.example:x,hostnqn=y"}), "InvalidArgument", []string{"hostnqn=y"}},
	{"stage static at a name", static(map[string]string{"addresses": "storage.example"}), "InvalidArgument", []string{"key addresses", `"storage.example"`}},
	{"stage static at everything", static(map[string]string{"addresses": "0.0.0.0"}), "InvalidArgument", []string{"key addresses", `"0.0.0.0"`}},
	{"stage static with NSID 0", static(map[string]string{"nsid": "0"}), "InvalidArgument", []string{"key nsid", `"0"`}},
	{"stage static with no UUID", static(map[string]string{"uuid": "none"}), "InvalidArgument", []string{"key uuid", `"none"`}},
	{"stage static formatted perhaps", static(map[string]string{"formatIfZero": "maybe"}), "InvalidArgument", []string{"key formatIfZero", `"maybe"`}},
}

// contextRequests: each key of the publish context is empty or garbage.
func contextRequests() []request {
	var out []request
	for key, values := range map[string][]string{
		"host": nil, "token": nil,
		"node":       {"node2-00000002"},
		"generation": {"0", "-1", "two"},
		"nqn":        {"x", "nqn.2026-11.io.holdfast:a,b"},
		"portals":    {"storage:4420", "10.0.0.2:99999", ","},
		"nsid":       {"0", "4294967295", "1.0"},
		"uuid":       {"x", strings.ToUpper(uuid.NewString()), uuid.Nil.String()},
		"nguid":      {"x"},
		"sizeBytes":  {"-1", "big"},
		"blockSize":  {"1", "x"},
	} {
		for _, v := range append(values, "") {
			says := []string{key}
			switch key {
			case "nqn":
				says = []string{"NQN"}
			case "node":
				says = []string{"key node"}
			}
			if v == "" {
				says = []string{"publish context: key " + key}
			}
			out = append(out, request{"stage with " + key + "=" + v, publishContext(key, v), "InvalidArgument", says})
		}
	}
	return out
}

var podRequests = []request{
	{"publish nowhere", publishes(func(_ *scene, r *csi.NodePublishVolumeRequest) { r.TargetPath = "" }), "InvalidArgument", []string{"target path"}},
	{"publish at a relative path", publishes(func(_ *scene, r *csi.NodePublishVolumeRequest) { r.TargetPath = "pod" }), "InvalidArgument", []string{"target path", `"pod"`}},
	{"publish at a path with dots", publishes(func(_ *scene, r *csi.NodePublishVolumeRequest) { r.TargetPath = "/a/./b" }), "InvalidArgument", []string{`"/a/./b"`}},
	{"publish without staging", publishes(func(_ *scene, r *csi.NodePublishVolumeRequest) { r.StagingTargetPath = "" }), "InvalidArgument", []string{"staging target path"}},
	{"publish without a capability", publishes(func(_ *scene, r *csi.NodePublishVolumeRequest) { r.VolumeCapability = nil }), "InvalidArgument", []string{"capability"}},
	{"publish as block", publishes(func(s *scene, r *csi.NodePublishVolumeRequest) {
		r.TargetPath = s.path("second")
		r.VolumeCapability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	}), "AlreadyExists", nil},
	{"publish what is not staged", func(ctx context.Context, s *scene) error {
		req := s.publishRequest()
		req.VolumeId, req.PublishContext, req.TargetPath = s.attached.GetVolumeId(), s.attachedContext, s.path("second")
		_, err := s.NodePublishVolume(ctx, req)
		return err
	}, "FailedPrecondition", []string{"not staged"}},
	{"publish the only pod's volume twice", publishes(func(s *scene, r *csi.NodePublishVolumeRequest) {
		r.TargetPath, r.VolumeCapability = s.path("second"), mode(csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER)
	}), "FailedPrecondition", []string{"one path only"}},
	{"unpublish nothing", func(ctx context.Context, s *scene) error {
		_, err := s.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{TargetPath: s.path("pod")})
		return err
	}, "InvalidArgument", []string{"volume ID"}},
	{"unpublish a path with dots", func(ctx context.Context, s *scene) error {
		_, err := s.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: s.used.GetVolumeId(), TargetPath: "/a/../b"})
		return err
	}, "InvalidArgument", []string{`"/a/../b"`}},
	{"unstage elsewhere", func(ctx context.Context, s *scene) error {
		_, err := s.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: s.used.GetVolumeId(), StagingTargetPath: s.path("elsewhere")})
		return err
	}, "InvalidArgument", []string{"is staged at"}},
	{"unstage what a pod uses", func(ctx context.Context, s *scene) error {
		_, err := s.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: s.used.GetVolumeId(), StagingTargetPath: s.path("stage")})
		return err
	}, "Unavailable", []string{"still published"}},
	{"stats of nothing", func(ctx context.Context, s *scene) error {
		_, err := s.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: "none", VolumePath: s.path("pod")})
		return err
	}, "NotFound", nil},
	{"stats of a path that is not its", func(ctx context.Context, s *scene) error {
		_, err := s.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: s.used.GetVolumeId(), VolumePath: "/etc"})
		return err
	}, "NotFound", []string{"/etc"}},
	{"health of nothing", func(ctx context.Context, s *scene) error {
		_, err := s.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: "none"})
		return err
	}, "NotFound", nil},
	{"expand on the node", func(ctx context.Context, s *scene) error {
		_, err := s.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{VolumeId: s.used.GetVolumeId(), VolumePath: s.path("pod")})
		return err
	}, "Unimplemented", nil},
}
