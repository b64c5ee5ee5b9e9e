package driver

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/internal/backend"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Controller is the CSI Controller service. It keeps nothing: the storage
// hosts know everything, and decide.
type Controller struct {
	csi.UnimplementedControllerServer
	Hosts     *backend.Hosts
	ClusterID string
	Topology  Topology
}

var controllerCapabilities = []csi.ControllerServiceCapability_RPC_Type{
	csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
	csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
	csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
	csi.ControllerServiceCapability_RPC_GET_CAPACITY,
	csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
}

// ControllerGetCapabilities lists what is served.
func (c *Controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	resp := &csi.ControllerGetCapabilitiesResponse{}
	for _, t := range controllerCapabilities {
		resp.Capabilities = append(resp.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}

// CreateVolume makes a volume on the host that the class names, or on the one
// with the most room.
func (c *Controller) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if err := errors.Join(required("name", req.GetName()), checkCapabilities(req.GetVolumeCapabilities())); err != nil {
		return nil, err
	}
	if req.GetVolumeContentSource() != nil {
		return nil, fmt.Errorf("volume %q: content source: snapshots and clones are not served yet: %w", req.GetName(), volume.ErrInvalid)
	}
	if len(req.GetMutableParameters()) > 0 {
		return nil, fmt.Errorf("volume %q: mutable parameters are not served yet: %w", req.GetName(), volume.ErrInvalid)
	}
	class, err := ParseClass(req.GetParameters())
	if err != nil {
		return nil, err
	}
	if err := checkFormatOptions(class.FormatOptions, req.GetVolumeCapabilities()); err != nil {
		return nil, err
	}
	if class.Where.Tiers, err = c.Topology.tiers(c.Hosts.Names(), req.GetAccessibilityRequirements()); err != nil {
		return nil, fmt.Errorf("volume %q: %w", req.GetName(), err)
	}
	want := volume.CreateRequest{Name: req.GetName(), LimitBytes: req.GetCapacityRange().GetLimitBytes()}
	if want.RequiredBytes, err = requiredBytes(req); err != nil {
		return nil, fmt.Errorf("volume %q: %w", req.GetName(), err)
	}
	id, v, err := c.Hosts.Create(ctx, want, class.Where)
	if err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: id.String(), CapacityBytes: v.SizeBytes, VolumeContext: class.volumeContext(), AccessibleTopology: c.Topology.accessible(id.Host),
	}}, nil
}

// DeleteVolume removes a volume. One that is not there is gone already; a
// volume of a host that does not answer is not.
func (c *Controller) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if err := required("volume ID", req.GetVolumeId()); err != nil {
		return nil, err
	}
	id, err := volume.ParseID(req.GetVolumeId())
	if err != nil {
		// No volume of ours has such an ID, so there is none to delete.
		return &csi.DeleteVolumeResponse{}, nil
	}
	host, err := c.Hosts.Host(id.Host)
	if err != nil {
		return nil, err
	}
	if err := host.Delete(ctx, id.UUID); err != nil && !errors.Is(err, volume.ErrNotFound) {
		return nil, err
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// ControllerPublishVolume gives a node the right to a volume. Static volumes
// have no storage host of ours to ask.
func (c *Controller) ControllerPublishVolume(ctx context.Context, req *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	if err := errors.Join(required("volume ID", req.GetVolumeId(), "node ID", req.GetNodeId()), checkCapability(req.GetVolumeCapability())); err != nil {
		return nil, err
	}
	if isStatic(req.GetVolumeContext()) {
		return c.publishStatic(req)
	}
	host, id, err := c.find(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	conn, err := ParseNVMEConnectionParams(req.GetVolumeContext())
	if err != nil {
		return nil, fmt.Errorf("volume context: %w", err)
	}
	if err := volume.ValidateNodeID(req.GetNodeId()); err != nil {
		// CSI: a node that does not exist. None of ours has such an ID.
		return nil, fmt.Errorf("%w: %v", volume.ErrNotFound, err)
	}
	nqn, hostID := volume.HostIdentity(c.ClusterID, req.GetNodeId())
	p, err := host.Publish(ctx, volume.PublishRequest{Volume: id.UUID, Node: req.GetNodeId(), HostNQN: nqn, HostID: hostID, Profile: conn.Profile()})
	if err != nil {
		return nil, err
	}
	return &csi.ControllerPublishVolumeResponse{PublishContext: toPublishContext(id.Host, p)}, nil
}

func (c *Controller) publishStatic(req *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	if err := checkStaticHandle(req.GetVolumeId()); err != nil {
		return nil, err
	}
	identity := NodeIdentity{NodeID: req.GetNodeId()}
	if _, err := identity.attachment(req.GetVolumeContext(), nil); err != nil {
		return nil, fmt.Errorf("volume %s: %w", req.GetVolumeId(), err)
	}
	return &csi.ControllerPublishVolumeResponse{}, nil
}

// ControllerUnpublishVolume fences: when it answers OK no write of the node can
// land any more. A static volume's target is not ours to fence.
func (c *Controller) ControllerUnpublishVolume(ctx context.Context, req *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if err := required("volume ID", req.GetVolumeId()); err != nil {
		return nil, err
	}
	id, err := volume.ParseID(req.GetVolumeId())
	if err != nil {
		return &csi.ControllerUnpublishVolumeResponse{}, nil
	}
	host, err := c.Hosts.Host(id.Host)
	if err != nil {
		return nil, err
	}
	if err := host.Unpublish(ctx, id.UUID, req.GetNodeId()); err != nil && !errors.Is(err, volume.ErrNotFound) {
		return nil, err
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

// ValidateVolumeCapabilities confirms what CreateVolume would accept.
func (c *Controller) ValidateVolumeCapabilities(ctx context.Context, req *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if err := required("volume ID", req.GetVolumeId()); err != nil {
		return nil, err
	}
	if len(req.GetVolumeCapabilities()) == 0 {
		return nil, fmt.Errorf("volume capabilities are missing: %w", volume.ErrInvalid)
	}
	if !isStatic(req.GetVolumeContext()) {
		host, id, err := c.find(req.GetVolumeId())
		if err != nil {
			return nil, err
		}
		if _, err := host.Get(ctx, id.UUID); err != nil {
			return nil, err
		}
	}
	if err := checkCapabilities(req.GetVolumeCapabilities()); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: req.GetVolumeContext(), VolumeCapabilities: req.GetVolumeCapabilities(), Parameters: req.GetParameters(),
	}}, nil
}

// find resolves a handle; one that is none of ours is not found.
func (c *Controller) find(handle string) (volume.Backend, volume.ID, error) {
	id, err := volume.ParseID(handle)
	if err != nil {
		return nil, id, fmt.Errorf("%w: %v", volume.ErrNotFound, err)
	}
	host, err := c.Hosts.Host(id.Host)
	return host, id, err
}

// GetCapacity says how much can be provisioned where the class allows.
func (c *Controller) GetCapacity(ctx context.Context, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	class, err := ParseClass(req.GetParameters())
	if err != nil {
		return nil, err
	}
	if len(req.GetVolumeCapabilities()) > 0 {
		if err := checkCapabilities(req.GetVolumeCapabilities()); err != nil {
			return &csi.GetCapacityResponse{}, nil
		}
	}
	if at := req.GetAccessibleTopology(); at != nil {
		class.Where.Tiers = [][]string{c.Topology.from(c.Hosts.Names(), at.GetSegments())}
	}
	total, largest, err := c.Hosts.Available(ctx, class.Where)
	if err != nil {
		return nil, err
	}
	return &csi.GetCapacityResponse{AvailableCapacity: total, MaximumVolumeSize: wrap(largest)}, nil
}

// ListVolumes lists the volumes of all hosts, or fails: it never leaves a host
// out. The token is the handle of the last volume of the page.
func (c *Controller) ListVolumes(ctx context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	if req.GetMaxEntries() < 0 {
		return nil, fmt.Errorf("max entries %d: must not be negative: %w", req.GetMaxEntries(), volume.ErrInvalid)
	}
	var after volume.ID
	if t := req.GetStartingToken(); t != "" {
		var err error
		if after, err = volume.ParseID(t); err != nil {
			return nil, fmt.Errorf("starting token: %w: %w", errBadToken, err)
		}
	}
	limit := int(req.GetMaxEntries())
	entries, err := c.Hosts.List(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	resp := &csi.ListVolumesResponse{}
	for _, e := range entries {
		resp.Entries = append(resp.Entries, &csi.ListVolumesResponse_Entry{Volume: &csi.Volume{VolumeId: e.ID.String(), CapacityBytes: e.Volume.SizeBytes}})
	}
	if limit > 0 && len(entries) == limit {
		resp.NextToken = entries[limit-1].ID.String()
	}
	return resp, nil
}
