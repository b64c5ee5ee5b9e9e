package sanity

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/holdfast-csi/holdfast/internal/agent"
	"github.com/holdfast-csi/holdfast/internal/agent/agentpb"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
)

// scene is a driver in use: "used" is published to this node, staged, and at a
// pod's path; "attached" is published to it only; "spare" is not published.
type scene struct {
	*rig
	control agentpb.ControlClient
	host    agentpb.NodeClient

	used, attached, spare *csi.Volume
	usedContext           map[string]string
	attachedContext       map[string]string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{rig: newRig(t)}
	s.dialAgent()
	s.used, s.attached, s.spare = s.create("used"), s.create("attached"), s.create("spare")
	s.usedContext, s.attachedContext = s.attach(s.used), s.attach(s.attached)
	if _, err := s.NodePublishVolume(t.Context(), s.publishRequest()); err == nil {
		t.Fatal("published before it was staged")
	}
	_, err := s.NodeStageVolume(t.Context(), s.stageRequest(s.used, s.usedContext))
	s.must(err)
	_, err = s.NodePublishVolume(t.Context(), s.publishRequest())
	s.must(err)
	return s
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// dialAgent speaks to the agent without the client's own checks.
func (s *scene) dialAgent() {
	s.Helper()
	l := bufconn.Listen(1 << 20)
	server := grpc.NewServer(grpc.UnaryInterceptor(agent.Interceptor(slog.New(slog.DiscardHandler))))
	agent.Register(server, s.agent.Service)
	go func() { _ = server.Serve(l) }()
	s.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	s.must(err)
	s.Cleanup(func() { _ = conn.Close() })
	s.control, s.host = agentpb.NewControlClient(conn), agentpb.NewNodeClient(conn)
}

func capability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
	}
}

func (s *scene) createRequest() *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{Name: "new", VolumeCapabilities: []*csi.VolumeCapability{capability()}, CapacityRange: &csi.CapacityRange{RequiredBytes: volumeBytes}}
}

func (s *scene) create(name string) *csi.Volume {
	s.Helper()
	req := s.createRequest()
	req.Name = name
	resp, err := s.CreateVolume(s.Context(), req)
	s.must(err)
	return resp.GetVolume()
}

func (s *scene) attachRequest(v *csi.Volume) *csi.ControllerPublishVolumeRequest {
	return &csi.ControllerPublishVolumeRequest{VolumeId: v.GetVolumeId(), NodeId: nodeID, VolumeCapability: capability(), VolumeContext: maps.Clone(v.GetVolumeContext())}
}

func (s *scene) attach(v *csi.Volume) map[string]string {
	s.Helper()
	resp, err := s.ControllerPublishVolume(s.Context(), s.attachRequest(v))
	s.must(err)
	return resp.GetPublishContext()
}

func (s *scene) path(name string) string { return filepath.Join(s.root, name) }

func (s *scene) stageRequest(v *csi.Volume, publish map[string]string) *csi.NodeStageVolumeRequest {
	return &csi.NodeStageVolumeRequest{
		VolumeId: v.GetVolumeId(), StagingTargetPath: s.path("stage"), VolumeCapability: capability(),
		VolumeContext: maps.Clone(v.GetVolumeContext()), PublishContext: maps.Clone(publish),
	}
}

func (s *scene) publishRequest() *csi.NodePublishVolumeRequest {
	r := s.stageRequest(s.used, s.usedContext)
	return &csi.NodePublishVolumeRequest{
		VolumeId: r.GetVolumeId(), StagingTargetPath: r.GetStagingTargetPath(), TargetPath: s.path("pod"), VolumeCapability: r.GetVolumeCapability(),
		VolumeContext: r.GetVolumeContext(), PublishContext: r.GetPublishContext(),
	}
}

// request is one that must be refused.
type request struct {
	name string
	call func(context.Context, *scene) error
	code string
	says []string // what the message must name: key, value, rule
}

// TestHostile: every request is refused with the code that CSI and its callers
// expect, in words that help, and changes nothing at all.
func TestHostile(t *testing.T) {
	s := newScene(t)
	all := append(append(append(append([]request{}, controllerRequests...), nodeRequests()...), agentRequests...), configRequests...)
	if len(all) < 100 {
		t.Errorf("%d requests", len(all))
	}
	for _, r := range all {
		t.Run(r.name, func(t *testing.T) {
			before := s.look()
			err := r.call(t.Context(), s)
			st, ok := status.FromError(rpcerr.ToStatus(err))
			if !ok || st.Code().String() != r.code {
				t.Errorf("%s (%v), want %s", st.Code(), err, r.code)
			}
			for _, text := range r.says {
				if !strings.Contains(st.Message(), text) {
					t.Errorf("%q does not say %q", st.Message(), text)
				}
			}
			if diff := cmp.Diff(before, s.look()); diff != "" {
				t.Errorf("something changed (-before +after):\n%s", diff)
			}
		})
	}
}
