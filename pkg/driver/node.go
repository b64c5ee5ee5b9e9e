package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// errBadToken is the one case of CSI that has a code of its own.
var errBadToken = rpcerr.ErrAborted

// Node is the CSI Node service.
type Node struct {
	csi.UnimplementedNodeServer
	Identity NodeIdentity
	Flow     *node.Node
	// MaxVolumes is how many volumes Kubernetes may attach to the node; 0 is no limit.
	MaxVolumes int64
	// Segments are what storage hosts can be reached from here by (Topology); an error
	// is one to be tried again. Nil is none.
	Segments func(ctx context.Context) (map[string]string, error)
	// Health says how volumes are; Flow if it is nil.
	Health interface {
		Condition(ctx context.Context, volumeID string) (node.Condition, error)
	}
}

var nodeCapabilities = []csi.NodeServiceCapability_RPC_Type{
	csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
	csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
	csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
	csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
}

// NodeGetCapabilities lists what is served.
func (n *Node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, t := range nodeCapabilities {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}

// NodeGetInfo says who this node is.
func (n *Node) NodeGetInfo(ctx context.Context, _ *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	resp := &csi.NodeGetInfoResponse{NodeId: n.Identity.NodeID, MaxVolumesPerNode: n.MaxVolumes}
	if n.Segments == nil {
		return resp, nil
	}
	segments, err := n.Segments(ctx)
	if err != nil {
		return nil, err
	}
	if len(segments) > 0 {
		resp.AccessibleTopology = &csi.Topology{Segments: segments}
	}
	return resp, nil
}

// NodeStageVolume makes a volume ready on this node.
func (n *Node) NodeStageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	stage, err := n.stageRequest(req.GetVolumeId(), req.GetStagingTargetPath(), req.GetVolumeCapability(), req.GetVolumeContext(), req.GetPublishContext())
	if err != nil {
		return nil, err
	}
	if err := n.isFree(ctx, stage); err != nil {
		return nil, err
	}
	if err := n.Flow.Stage(ctx, stage); err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// isFree fails while it is not known whether what waits in the table of a static
// volume may go on: a pod that got it now could lose it again. A volume of ours has
// generations for that.
func (n *Node) isFree(ctx context.Context, req node.StageRequest) error {
	if req.Attachment.Managed != nil {
		return nil
	}
	c, err := n.condition(ctx, req.VolumeID)
	if err != nil || !c.Held {
		return nil //nolint:nilerr // it is not staged, or the call itself will say
	}
	return fmt.Errorf("volume %s: %s: %w", req.VolumeID, c.Message, volume.ErrUnavailable)
}

// stageRequest translates what stage and publish have in common.
func (n *Node) stageRequest(volumeID, staging string, c *csi.VolumeCapability, volumeContext, publishContext map[string]string) (node.StageRequest, error) {
	if err := errors.Join(required("volume ID", volumeID, "staging target path", staging), checkCapability(c)); err != nil {
		return node.StageRequest{}, err
	}
	at, err := n.Identity.attachment(volumeContext, publishContext)
	if err == nil {
		err = checkHandle(volumeID, volumeContext, at)
	}
	if err != nil {
		return node.StageRequest{}, fmt.Errorf("volume %s: %w", volumeID, err)
	}
	req := node.StageRequest{VolumeID: volumeID, StagingPath: staging, Attachment: at, Claim: claimOf(volumeContext), PersistentVolume: volumeContext[pvName]}
	if m := c.GetMount(); m != nil {
		kind, err := filesystem.ParseKind(m.GetFsType())
		if err != nil {
			return node.StageRequest{}, err
		}
		req.FSType, req.MountOptions, req.FormatOptions = string(kind), m.GetMountFlags(), volumeContext[paramMkfs]
		req.ReadOnly = c.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY || slices.Contains(m.GetMountFlags(), "ro")
	}
	return req, nil
}

// NodeUnstageVolume takes a volume from this node; it never answers OK while
// written data may be lost.
func (n *Node) NodeUnstageVolume(ctx context.Context, req *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if err := required("volume ID", req.GetVolumeId(), "staging target path", req.GetStagingTargetPath()); err != nil {
		return nil, err
	}
	if err := n.Flow.Unstage(ctx, req.GetVolumeId(), req.GetStagingTargetPath()); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// NodePublishVolume shows a staged volume to a pod.
func (n *Node) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if err := required("target path", req.GetTargetPath()); err != nil {
		return nil, err
	}
	stage, err := n.stageRequest(req.GetVolumeId(), req.GetStagingTargetPath(), req.GetVolumeCapability(), req.GetVolumeContext(), req.GetPublishContext())
	if err != nil {
		return nil, err
	}
	if err := n.isFree(ctx, stage); err != nil {
		return nil, err
	}
	mode := req.GetVolumeCapability().GetAccessMode().GetMode()
	if err := n.Flow.Publish(ctx, node.PublishRequest{
		StageRequest: stage, TargetPath: req.GetTargetPath(),
		TargetReadOnly: req.GetReadonly() || mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
		Exclusive:      mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
	}); err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume takes a pod's view away.
func (n *Node) NodeUnpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := required("volume ID", req.GetVolumeId(), "target path", req.GetTargetPath()); err != nil {
		return nil, err
	}
	if err := n.Flow.Unpublish(ctx, req.GetVolumeId(), req.GetTargetPath()); err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats never waits for a device.
func (n *Node) NodeGetVolumeStats(ctx context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if err := required("volume ID", req.GetVolumeId(), "volume path", req.GetVolumePath()); err != nil {
		return nil, err
	}
	u, err := n.Flow.Stats(ctx, req.GetVolumeId(), req.GetVolumePath())
	if err != nil {
		return nil, err
	}
	resp := &csi.NodeGetVolumeStatsResponse{}
	if u != nil {
		resp.Usage = append(resp.Usage, &csi.VolumeUsage{Unit: csi.VolumeUsage_BYTES, Total: u.TotalBytes, Used: u.UsedBytes, Available: u.AvailableBytes})
	}
	if u != nil && u.TotalInodes > 0 {
		resp.Usage = append(resp.Usage, &csi.VolumeUsage{Unit: csi.VolumeUsage_INODES, Total: u.TotalInodes, Used: u.UsedInodes, Available: u.AvailableInodes})
	}
	return resp, nil
}

// NodeGetVolumeHealth tells a volume that waits from one that is lost.
func (n *Node) NodeGetVolumeHealth(ctx context.Context, req *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	if err := required("volume ID", req.GetVolumeId()); err != nil {
		return nil, err
	}
	c, err := n.condition(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	health := &csi.VolumeHealth{VolumeId: req.GetVolumeId()}
	if kind, bad := healthOf[c.State]; bad {
		health.HealthStatuses = []*csi.VolumeHealth_VolumeHealthEntry{{Status: kind, Reason: string(c.State), Message: c.Message}}
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health}, nil
}

// healthOf: a path that is away is no loss, I/O waits for it. A device that the
// kernel deleted takes what was written and never synced with it; nothing that
// was acknowledged to be on disk is lost, so that is not DATA_LOSS either.
var healthOf = map[node.State]csi.VolumeHealthErrorType{
	node.Reconnecting: csi.VolumeHealthErrorType_DEGRADED,
	node.Refused:      csi.VolumeHealthErrorType_INACCESSIBLE,
	node.Fenced:       csi.VolumeHealthErrorType_INACCESSIBLE,
	node.Detached:     csi.VolumeHealthErrorType_INACCESSIBLE,
	node.Lost:         csi.VolumeHealthErrorType_INACCESSIBLE,
	node.Failed:       csi.VolumeHealthErrorType_INACCESSIBLE,
}

func (n *Node) condition(ctx context.Context, volumeID string) (node.Condition, error) {
	if n.Health != nil {
		return n.Health.Condition(ctx, volumeID)
	}
	return n.Flow.Condition(ctx, volumeID)
}

func wrap(n int64) *wrapperspb.Int64Value { return wrapperspb.Int64(n) }
