package sanity

import (
	"context"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"
)

// creates is a CreateVolume that is good but for what change does to it.
func creates(change func(*csi.CreateVolumeRequest)) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		req := s.createRequest()
		change(req)
		_, err := s.CreateVolume(ctx, req)
		return err
	}
}

func parameter(key, value string) func(context.Context, *scene) error {
	return creates(func(r *csi.CreateVolumeRequest) { r.Parameters = map[string]string{key: value} })
}

func capacity(required, limit int64) func(context.Context, *scene) error {
	return creates(func(r *csi.CreateVolumeRequest) {
		r.CapacityRange = &csi.CapacityRange{RequiredBytes: required, LimitBytes: limit}
	})
}

// attaches is a ControllerPublishVolume of the spare volume, changed.
func attaches(change func(*csi.ControllerPublishVolumeRequest)) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		req := s.attachRequest(s.spare)
		change(req)
		_, err := s.ControllerPublishVolume(ctx, req)
		return err
	}
}

func deletes(id func(*scene) string) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		_, err := s.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id(s)})
		return err
	}
}

func mode(m csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	c := capability()
	c.AccessMode.Mode = m
	return c
}

func fileSystem(kind string, flags ...string) *csi.VolumeCapability {
	c := capability()
	c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: kind, MountFlags: flags}}
	return c
}

func wants(c *csi.VolumeCapability) func(context.Context, *scene) error {
	return creates(func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = []*csi.VolumeCapability{c} })
}

var nowhere = "gamma:" + uuid.NewString()

var controllerRequests = []request{
	{"create without a name", creates(func(r *csi.CreateVolumeRequest) { r.Name = "" }), "InvalidArgument", []string{"name"}},
	{"create with a name of two lines", creates(func(r *csi.CreateVolumeRequest) { r.Name = "a\nb" }), "InvalidArgument", []string{`"a\nb"`, "printable"}},
	{"create with a name that is too long", creates(func(r *csi.CreateVolumeRequest) { r.Name = strings.Repeat("x", 129) }), "InvalidArgument", []string{"xxx", "128"}},
	{"create without capabilities", creates(func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = nil }), "InvalidArgument", []string{"capabilities"}},
	{"create with no access type", wants(&csi.VolumeCapability{AccessMode: capability().GetAccessMode()}), "InvalidArgument", []string{"mount or block"}},
	{"create for many writers", wants(mode(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)), "InvalidArgument", []string{"MULTI_NODE_MULTI_WRITER", "ReadWriteOnce"}},
	{"create for many readers", wants(mode(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)), "InvalidArgument", []string{"MULTI_NODE_READER_ONLY"}},
	{"create with btrfs", wants(fileSystem("btrfs")), "InvalidArgument", []string{`"btrfs"`, "ext4 or xfs"}},
	{"create with a path as file system", wants(fileSystem("../ext4")), "InvalidArgument", []string{`"../ext4"`}},
	{"create with errors ignored", wants(fileSystem("ext4", "errors=continue")), "InvalidArgument", []string{`"errors"`, `"continue"`, "refused"}},
	{"create with two flags in one", wants(fileSystem("ext4", "noatime,nobarrier")), "InvalidArgument", []string{`"noatime,nobarrier"`, "commas"}},
	{"create with an unknown parameter", parameter("replicas", "3"), "InvalidArgument", []string{`"replicas"`, `"3"`, "known are"}},
	{"create with a key in upper case", parameter("CTRLLOSSTMO", "-1"), "InvalidArgument", []string{`"CTRLLOSSTMO"`, "ctrlLossTmo"}},
	{"create with a duration", parameter("ctrlLossTmo", "10m"), "InvalidArgument", []string{"ctrlLossTmo", `"10m"`, "whole number"}},
	{"create with an endless overflow", parameter("ctrlLossTmo", "2147483647"), "InvalidArgument", []string{"ctrlLossTmo", "2147483647", "overflow"}},
	{"create with no delay", parameter("reconnectDelay", "0"), "InvalidArgument", []string{"reconnectDelay", `"0"`}},
	{"create with a slow keep-alive", parameter("keepAliveTmo", "31"), "InvalidArgument", []string{"keepAliveTmo", "31", "at most 30"}},
	{"create with a number as switch", parameter("hdrDigest", "1"), "InvalidArgument", []string{"hdrDigest", `"1"`, `"true" or "false"`}},
	{"create with a guard", parameter("guard", "none"), "InvalidArgument", []string{"guard", `"none"`, "auto, kernel or dm"}},
	{"create on no host", parameter("host", "gamma"), "InvalidArgument", []string{`"gamma"`, "box1"}},
	{"create on a path", parameter("host", "../box1"), "InvalidArgument", []string{"host", `"../box1"`}},
	{"create in no pool", parameter("pool", "slow"), "InvalidArgument", []string{`"slow"`}},
	{"create in a path", parameter("pool", "/tmp"), "InvalidArgument", []string{"pool", `"/tmp"`}},
	{"create less than nothing", capacity(-1, 0), "InvalidArgument", []string{"-1", "negative"}},
	{"create within less than nothing", capacity(1, -1), "InvalidArgument", []string{"-1", "negative"}},
	{"create more than the limit", capacity(volumeBytes, volumeBytes-1), "InvalidArgument", []string{"limit"}},
	{"create with a limit between sizes", capacity(volumeBytes+1, volumeBytes+2), "OutOfRange", []string{"limit", "multiples"}},
	{"create everything", capacity(1<<63-1, 0), "ResourceExhausted", []string{"9223372036854775807"}},
	{"create more than there is", capacity(1<<49, 0), "ResourceExhausted", []string{"562949953421312"}},
	{"create from a snapshot", creates(func(r *csi.CreateVolumeRequest) {
		r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: "x"}}}
	}), "InvalidArgument", []string{"snapshots"}},
	{"create from a volume", creates(func(r *csi.CreateVolumeRequest) {
		r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: "x"}}}
	}), "InvalidArgument", []string{"clones"}},
	{"create with mutable parameters", creates(func(r *csi.CreateVolumeRequest) { r.MutableParameters = map[string]string{"a": "b"} }), "InvalidArgument", []string{"mutable"}},
	{"create again, larger", creates(func(r *csi.CreateVolumeRequest) { r.Name, r.CapacityRange.RequiredBytes = "spare", 2*volumeBytes }), "AlreadyExists", []string{`"spare"`, "16777216", "33554432"}},
	{"create again, smaller", creates(func(r *csi.CreateVolumeRequest) {
		r.Name, r.CapacityRange = "spare", &csi.CapacityRange{LimitBytes: volumeBytes / 2}
	}), "AlreadyExists", []string{`"spare"`, "8388608"}},

	{"delete nothing", deletes(func(*scene) string { return "" }), "InvalidArgument", []string{"volume ID"}},
	{"delete on an unknown host", deletes(func(*scene) string { return nowhere }), "Unavailable", []string{`"gamma"`}},
	{"delete what is published", deletes(func(s *scene) string { return s.attached.GetVolumeId() }), "FailedPrecondition", []string{nodeID, "unpublish"}},

	{"attach nothing", attaches(func(r *csi.ControllerPublishVolumeRequest) { r.VolumeId = "" }), "InvalidArgument", []string{"volume ID"}},
	{"attach to nobody", attaches(func(r *csi.ControllerPublishVolumeRequest) { r.NodeId = "" }), "InvalidArgument", []string{"node ID"}},
	{"attach without a capability", attaches(func(r *csi.ControllerPublishVolumeRequest) { r.VolumeCapability = nil }), "InvalidArgument", []string{"capability"}},
	{"attach a foreign volume", attaches(func(r *csi.ControllerPublishVolumeRequest) { r.VolumeId = "vol-1" }), "NotFound", []string{`"vol-1"`}},
	{"attach from an unknown host", attaches(func(r *csi.ControllerPublishVolumeRequest) { r.VolumeId = nowhere }), "Unavailable", []string{`"gamma"`}},
	{"attach to a path", attaches(func(r *csi.ControllerPublishVolumeRequest) { r.NodeId = "../node1-00000001" }), "NotFound", []string{`"../node1-00000001"`}},
	{"attach to a node without hash", attaches(func(r *csi.ControllerPublishVolumeRequest) { r.NodeId = "node1" }), "NotFound", []string{`"node1"`}},
	{"attach with broken options", attaches(func(r *csi.ControllerPublishVolumeRequest) { r.VolumeContext["queueSize"] = "7" }), "InvalidArgument", []string{"volume context", "queueSize", "7"}},
	{"attach a volume that another node has", func(ctx context.Context, s *scene) error {
		req := s.attachRequest(s.used)
		req.NodeId = "node2-00000002"
		_, err := s.ControllerPublishVolume(ctx, req)
		return err
	}, "FailedPrecondition", []string{nodeID}},
	{"attach with other options", func(ctx context.Context, s *scene) error {
		req := s.attachRequest(s.used)
		req.VolumeContext["tos"] = "8"
		_, err := s.ControllerPublishVolume(ctx, req)
		return err
	}, "AlreadyExists", []string{"profile", "tos=8"}},
	{"attach our volume as static", attaches(func(r *csi.ControllerPublishVolumeRequest) {
		r.VolumeContext = map[string]string{"nqn": "nqn.2020-01.org.example:x", "addresses": "10.0.0.2", "nsid": "1"}
	}), "InvalidArgument", []string{"another handle"}},
	{"attach a static volume without an address", attaches(func(r *csi.ControllerPublishVolumeRequest) {
		r.VolumeId, r.VolumeContext = "static", map[string]string{"nqn": "nqn.2020-01.org.example:x", "nsid": "1"}
	}), "InvalidArgument", []string{"key addresses"}},
	{"attach a static volume with a broken NQN", attaches(func(r *csi.ControllerPublishVolumeRequest) {
		r.VolumeId, r.VolumeContext = "static", map[string]string{"nqn": "iqn.2020-01.org.example:x", "addresses": "10.0.0.2", "nsid": "1"}
	}), "InvalidArgument", []string{`"iqn.2020-01.org.example:x"`, "nqn.YYYY-MM"}},

	{"detach nothing", func(ctx context.Context, s *scene) error {
		_, err := s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{NodeId: nodeID})
		return err
	}, "InvalidArgument", []string{"volume ID"}},
	{"detach from an unknown host", func(ctx context.Context, s *scene) error {
		_, err := s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: nowhere, NodeId: nodeID})
		return err
	}, "Unavailable", []string{`"gamma"`}},
	{"detach from a node that does not have it", func(ctx context.Context, s *scene) error {
		_, err := s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: s.used.GetVolumeId(), NodeId: "node2-00000002"})
		return err
	}, "OK", nil},
	{"validate what is not there", func(ctx context.Context, s *scene) error {
		_, err := s.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{VolumeId: "box1:" + uuid.NewString(), VolumeCapabilities: []*csi.VolumeCapability{capability()}})
		return err
	}, "NotFound", nil},
	{"list from nowhere", func(ctx context.Context, s *scene) error {
		_, err := s.ListVolumes(ctx, &csi.ListVolumesRequest{StartingToken: "box1:1"})
		return err
	}, "Aborted", []string{"starting token", `"box1:1"`}},
	{"list less than nothing", func(ctx context.Context, s *scene) error {
		_, err := s.ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: -1})
		return err
	}, "InvalidArgument", []string{"-1"}},
	{"capacity of an unknown key", func(ctx context.Context, s *scene) error {
		_, err := s.GetCapacity(ctx, &csi.GetCapacityRequest{Parameters: map[string]string{"tier": "1"}})
		return err
	}, "InvalidArgument", []string{`"tier"`}},
	{"snapshot", func(ctx context.Context, s *scene) error {
		_, err := s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: s.spare.GetVolumeId(), Name: "x"})
		return err
	}, "Unimplemented", nil},
	{"expand", func(ctx context.Context, s *scene) error {
		_, err := s.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: s.spare.GetVolumeId()})
		return err
	}, "Unimplemented", nil},
}
