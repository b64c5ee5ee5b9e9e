package driver_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
	"github.com/holdfast-csi/holdfast/internal/backend"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/driver"
)

// host is a storage host with a real agent, whose network can be cut.
type host struct {
	*agenttest.Agent
	silent atomic.Bool
}

var errSilent = fmt.Errorf("no answer: %w", volume.ErrUnavailable)

func (h *host) reach() error {
	if h.silent.Load() {
		return errSilent
	}
	return nil
}

func (h *host) Info(ctx context.Context) (volume.HostInfo, error) {
	if err := h.reach(); err != nil {
		return volume.HostInfo{}, err
	}
	return h.Agent.Info(ctx)
}

func (h *host) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	if err := h.reach(); err != nil {
		return volume.Volume{}, err
	}
	return h.Agent.Create(ctx, req)
}

func (h *host) Get(ctx context.Context, id uuid.UUID) (volume.Volume, error) {
	if err := h.reach(); err != nil {
		return volume.Volume{}, err
	}
	return h.Agent.Get(ctx, id)
}

func (h *host) FindByName(ctx context.Context, name string) (volume.Volume, error) {
	if err := h.reach(); err != nil {
		return volume.Volume{}, err
	}
	return h.Agent.FindByName(ctx, name)
}

func (h *host) Delete(ctx context.Context, id uuid.UUID) error {
	return errors.Join(h.reach(), h.unless(func() error { return h.Agent.Delete(ctx, id) }))
}

func (h *host) Publish(ctx context.Context, req volume.PublishRequest) (volume.Publication, error) {
	if err := h.reach(); err != nil {
		return volume.Publication{}, err
	}
	return h.Agent.Publish(ctx, req)
}

func (h *host) Unpublish(ctx context.Context, id uuid.UUID, node string) error {
	return errors.Join(h.reach(), h.unless(func() error { return h.Agent.Unpublish(ctx, id, node) }))
}

func (h *host) unless(call func() error) error {
	if h.reach() != nil {
		return nil
	}
	return call()
}

func (h *host) List(ctx context.Context, after uuid.UUID, limit int) ([]volume.Volume, error) {
	if err := h.reach(); err != nil {
		return nil, err
	}
	return h.Agent.List(ctx, after, limit)
}

const (
	mib    = 1 << 20
	nodeID = "node1-00000001"
	other  = "node2-00000002"
)

// cluster is a controller with two storage hosts.
type cluster struct {
	*testing.T
	*driver.Controller
	alpha, beta *host
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{T: t, alpha: &host{Agent: agenttest.New(t, "fast").StartServing(t)}, beta: &host{Agent: agenttest.New(t, "fast", "slow").StartServing(t)}}
	c.Controller = &driver.Controller{Hosts: backend.New(map[string]volume.Backend{"alpha": c.alpha, "beta": c.beta}), ClusterID: "cluster"}
	return c
}

func capability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
	}
}

func createRequest(name string, params map[string]string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, Parameters: params, CapacityRange: &csi.CapacityRange{RequiredBytes: mib},
		VolumeCapabilities: []*csi.VolumeCapability{capability()},
	}
}

func on(host string) map[string]string { return map[string]string{"host": host} }

// create returns the handle of a new volume.
func (c *cluster) create(name string, params map[string]string) *csi.Volume {
	c.Helper()
	resp, err := c.CreateVolume(c.Context(), createRequest(name, params))
	if err != nil {
		c.Fatal(err)
	}
	return resp.GetVolume()
}

// publish publishes a volume and returns its context.
func (c *cluster) publish(v *csi.Volume, node string) (map[string]string, error) {
	resp, err := c.ControllerPublishVolume(c.Context(), &csi.ControllerPublishVolumeRequest{
		VolumeId: v.GetVolumeId(), NodeId: node, VolumeCapability: capability(), VolumeContext: v.GetVolumeContext(),
	})
	return resp.GetPublishContext(), err
}

func (c *cluster) unpublish(id, node string) error {
	_, err := c.ControllerUnpublishVolume(c.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: node})
	return err
}

func (c *cluster) remove(id string) error {
	_, err := c.DeleteVolume(c.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

// wantCode checks the code that the interceptor makes of err.
func (c *cluster) wantCode(what string, err error, want string) {
	c.Helper()
	if got := rpcerr.Code(err).String(); got != want {
		c.Errorf("%s: %s (%v), want %s", what, got, err, want)
	}
}

func (c *cluster) handles() []string {
	c.Helper()
	resp, err := c.ListVolumes(c.Context(), &csi.ListVolumesRequest{})
	if err != nil {
		c.Fatal(err)
	}
	var out []string
	for _, e := range resp.GetEntries() {
		out = append(out, e.GetVolume().GetVolumeId())
	}
	return out
}
