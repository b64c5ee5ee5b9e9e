package sanity

import (
	"context"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/agent/agentpb"
	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// grants is an agent's Publish of the spare volume, changed.
func grants(change func(*agentpb.PublishRequest)) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		nqn, id := volume.HostIdentity(clusterID, nodeID)
		req := &agentpb.PublishRequest{VolumeUuid: uuidOf(s.spare.GetVolumeId()), Node: nodeID, HostNqn: nqn, HostId: id, Profile: "x"}
		change(req)
		_, err := s.control.Publish(ctx, req)
		return err
	}
}

func uuidOf(handle string) string {
	_, id, _ := strings.Cut(handle, ":")
	return id
}

// formats is a BeginFormat of the attached volume, which is blank, changed.
func formats(change func(*scene, *agentpb.PublicationRef)) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		ref := refOf(s.attachedContext)
		change(s, ref)
		_, err := s.host.BeginFormat(ctx, ref)
		return err
	}
}

func refOf(publish map[string]string) *agentpb.PublicationRef {
	generation, _ := strconv.ParseUint(publish["generation"], 10, 64)
	return &agentpb.PublicationRef{VolumeUuid: publish["uuid"], Node: publish["node"], Generation: generation, Token: publish["token"]}
}

var agentRequests = []request{
	{"agent: create without a name", func(ctx context.Context, s *scene) error {
		_, err := s.control.CreateVolume(ctx, &agentpb.CreateVolumeRequest{RequiredBytes: volumeBytes})
		return err
	}, "InvalidArgument", []string{"name"}},
	{"agent: create in a path", func(ctx context.Context, s *scene) error {
		_, err := s.control.CreateVolume(ctx, &agentpb.CreateVolumeRequest{Name: "new", Pool: "../..", RequiredBytes: volumeBytes})
		return err
	}, "InvalidArgument", []string{`"../.."`}},
	{"agent: get what is no UUID", func(ctx context.Context, s *scene) error {
		_, err := s.control.GetVolume(ctx, &agentpb.GetVolumeRequest{Uuid: "../x"})
		return err
	}, "InvalidArgument", []string{`"../x"`}},
	{"agent: get nothing", func(ctx context.Context, s *scene) error {
		_, err := s.control.GetVolume(ctx, &agentpb.GetVolumeRequest{})
		return err
	}, "InvalidArgument", []string{"UUID"}},
	{"agent: delete in upper case", func(ctx context.Context, s *scene) error {
		_, err := s.control.DeleteVolume(ctx, &agentpb.DeleteVolumeRequest{Uuid: strings.ToUpper(uuidOf(s.spare.GetVolumeId()))})
		return err
	}, "InvalidArgument", []string{"lower-case"}},
	{"agent: delete what is published", func(ctx context.Context, s *scene) error {
		_, err := s.control.DeleteVolume(ctx, &agentpb.DeleteVolumeRequest{Uuid: uuidOf(s.used.GetVolumeId())})
		return err
	}, "FailedPrecondition", []string{nodeID}},
	{"agent: delete what is not there", func(ctx context.Context, s *scene) error {
		_, err := s.control.DeleteVolume(ctx, &agentpb.DeleteVolumeRequest{Uuid: uuid.NewString()})
		return err
	}, "NotFound", nil},
	{"agent: list after nothing", func(ctx context.Context, s *scene) error {
		_, err := s.control.ListVolumes(ctx, &agentpb.ListVolumesRequest{AfterUuid: "1"})
		return err
	}, "InvalidArgument", []string{`"1"`}},
	{"agent: publish nothing", grants(func(r *agentpb.PublishRequest) { r.VolumeUuid = "" }), "InvalidArgument", []string{"UUID"}},
	{"agent: publish to a path", grants(func(r *agentpb.PublishRequest) { r.Node = "../node1-00000001" }), "InvalidArgument", []string{"node ID", `"../node1-00000001"`}},
	{"agent: publish to a host with options", grants(func(r *agentpb.PublishRequest) { r.HostNqn += ",x" }), "InvalidArgument", []string{"host NQN"}},
	{"agent: publish to a host with a path", grants(func(r *agentpb.PublishRequest) { r.HostNqn = "nqn.2020-01.org.example:../../x" }), "InvalidArgument", []string{"host NQN"}},
	{"agent: publish without a host ID", grants(func(r *agentpb.PublishRequest) { r.HostId = "" }), "InvalidArgument", []string{"host ID"}},
	{"agent: publish with a profile of two lines", grants(func(r *agentpb.PublishRequest) { r.Profile = "a\nb" }), "InvalidArgument", []string{"profile"}},
	{"agent: publish with a huge profile", grants(func(r *agentpb.PublishRequest) { r.Profile = strings.Repeat("x", 1<<20) }), "InvalidArgument", []string{"profile", "2048"}},
	{"agent: unpublish what is not published", func(ctx context.Context, s *scene) error {
		_, err := s.control.Unpublish(ctx, &agentpb.UnpublishRequest{VolumeUuid: uuidOf(s.spare.GetVolumeId())})
		return err
	}, "NotFound", nil},
	{"agent: format with no token", formats(func(_ *scene, r *agentpb.PublicationRef) { r.Token = "" }), "PermissionDenied", []string{"token"}},
	{"agent: format with another's token", formats(func(s *scene, r *agentpb.PublicationRef) { r.Token = s.usedContext["token"] }), "PermissionDenied", nil},
	{"agent: format another generation", formats(func(_ *scene, r *agentpb.PublicationRef) { r.Generation++ }), "PermissionDenied", nil},
	{"agent: format for another node", formats(func(_ *scene, r *agentpb.PublicationRef) { r.Node = "node2-00000002" }), "PermissionDenied", nil},
	{"agent: format another volume", formats(func(s *scene, r *agentpb.PublicationRef) { r.VolumeUuid = uuidOf(s.spare.GetVolumeId()) }), "PermissionDenied", nil},
	{"agent: format what is in use", func(ctx context.Context, s *scene) error {
		_, err := s.host.BeginFormat(ctx, refOf(s.usedContext))
		return err
	}, "FailedPrecondition", []string{"data"}},
	{"agent: status with another's token", func(ctx context.Context, s *scene) error {
		ref := refOf(s.usedContext)
		ref.Token = s.attachedContext["token"]
		_, err := s.host.Status(ctx, ref)
		return err
	}, "PermissionDenied", nil},
}

// hosts is a hosts file that is good but for one replacement.
func hosts(old, replacement string) func(context.Context, *scene) error {
	text := strings.Replace(`
clusterID: here
tls: {ca: /a, cert: /b, key: /c}
hosts:
- {name: box1, address: "10.0.0.2:9700"}
`, old, replacement, 1)
	return func(context.Context, *scene) error {
		_, err := config.Parse([]byte(text))
		return err
	}
}

// agents is an agent's file, likewise.
func agents(old, replacement string) func(context.Context, *scene) error {
	text := strings.Replace(`
host: box1
tls: {ca: /a, cert: /b, key: /c}
pools:
- {name: fast, path: /srv/fast, address: 10.0.0.2}
`, old, replacement, 1)
	return func(context.Context, *scene) error {
		_, err := config.ParseTarget([]byte(text))
		return err
	}
}

var configRequests = []request{
	{"hosts file with a misspelt key", hosts("clusterID", "clusterId2"), "InvalidArgument", []string{`"clusterId2"`}},
	{"hosts file without a cluster", hosts("clusterID: here", `clusterID: ""`), "InvalidArgument", []string{"clusterID"}},
	{"hosts file without hosts", hosts(`- {name: box1, address: "10.0.0.2:9700"}`, ""), "InvalidArgument", []string{"hosts"}},
	{"hosts file with a path", hosts("box1", "../box1"), "InvalidArgument", []string{"hosts[0]", `"../box1"`}},
	{"hosts file without a port", hosts(":9700", ""), "InvalidArgument", []string{"box1", `"10.0.0.2"`, "HOST:PORT"}},
	{"hosts file without a key", hosts("key: /c", `key: ""`), "InvalidArgument", []string{"tls.key"}},
	{"agent's file with a misspelt key", agents("path:", "dir:"), "InvalidArgument", []string{`"dir"`}},
	{"agent's file without a key", agents("key: /c", "key: c"), "InvalidArgument", []string{"tls.key", `"c"`}},
	{"agent's file with a relative path", agents("/srv/fast", "srv/fast"), "InvalidArgument", []string{"path", `"srv/fast"`}},
	{"agent's file with a name for an address", agents("10.0.0.2", "box1.example"), "InvalidArgument", []string{"address", `"box1.example"`}},
	{"agent's file with every address", agents("10.0.0.2", "0.0.0.0"), "InvalidArgument", []string{"address", `"0.0.0.0"`}},
	{"agent's file with a broken port", agents("address: 10.0.0.2", "address: 10.0.0.2, port: 70000"), "InvalidArgument", []string{"port", "70000"}},
}
