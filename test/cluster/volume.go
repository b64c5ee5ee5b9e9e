package cluster

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// Volume is one that was provisioned, and how it is to be used.
type Volume struct {
	Name       string
	FSType     string // "" = raw block
	SizeBytes  int64
	Parameters map[string]string
	ReadOnly   bool // asked for with access mode SINGLE_NODE_READER_ONLY

	ID      string
	Context map[string]string
	Publish map[string]string
}

// Capability is what is asked for at every call.
func (v *Volume) Capability() *csi.VolumeCapability {
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}}
	if v.ReadOnly {
		c.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	}
	if v.FSType == "" {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: v.FSType}}
	}
	return c
}

// Staging is the path that the kubelet would choose.
func (v *Volume) Staging() string { return path.Join("/var/lib/kubelet/stage", v.Name) }

// Target is where the pod sees the volume.
func (v *Volume) Target() string { return path.Join("/var/lib/kubelet/pods", v.Name, "volume") }

// File is what a program in the pod writes to.
func (v *Volume) File() string {
	if v.FSType == "" {
		return v.Target()
	}
	return path.Join(v.Target(), "data")
}

// Provision plays the provisioner.
func (c *Cluster) Provision(ctx context.Context, v *Volume) error {
	resp, err := c.CSI.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: v.Name, CapacityRange: &csi.CapacityRange{RequiredBytes: v.SizeBytes},
		VolumeCapabilities: []*csi.VolumeCapability{v.Capability()}, Parameters: v.Parameters,
	})
	if err != nil {
		return fmt.Errorf("CreateVolume %s: %w", v.Name, err)
	}
	v.ID, v.Context = resp.GetVolume().GetVolumeId(), resp.GetVolume().GetVolumeContext()
	return nil
}

// Attach plays the attacher.
func (c *Cluster) Attach(ctx context.Context, v *Volume, n *Node) error {
	resp, err := c.CSI.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: v.ID, NodeId: n.ID, VolumeCapability: v.Capability(), VolumeContext: v.Context,
	})
	if err != nil {
		return fmt.Errorf("ControllerPublishVolume %s: %w", v.Name, err)
	}
	v.Publish = resp.GetPublishContext()
	return nil
}

// Detach plays the attacher.
func (c *Cluster) Detach(ctx context.Context, v *Volume, n *Node) error {
	_, err := c.CSI.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: v.ID, NodeId: n.ID})
	if err != nil {
		return fmt.Errorf("ControllerUnpublishVolume %s: %w", v.Name, err)
	}
	return nil
}

// Delete plays the provisioner.
func (c *Cluster) Delete(ctx context.Context, v *Volume) error {
	_, err := c.CSI.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.ID})
	if err != nil {
		return fmt.Errorf("DeleteVolume %s: %w", v.Name, err)
	}
	return nil
}

// StageVolume plays the kubelet.
func (n *Node) StageVolume(ctx context.Context, v *Volume) error {
	_, err := n.CSI.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.ID, StagingTargetPath: v.Staging(), VolumeCapability: v.Capability(), VolumeContext: v.Context, PublishContext: v.Publish,
	})
	if err != nil {
		return fmt.Errorf("NodeStageVolume %s on %s: %w", v.Name, n.Name(), err)
	}
	return nil
}

// PublishVolume plays the kubelet.
func (n *Node) PublishVolume(ctx context.Context, v *Volume, readOnly bool) error {
	_, err := n.CSI.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.ID, StagingTargetPath: v.Staging(), TargetPath: v.Target(), VolumeCapability: v.Capability(),
		VolumeContext: v.Context, PublishContext: v.Publish, Readonly: readOnly,
	})
	if err != nil {
		return fmt.Errorf("NodePublishVolume %s on %s: %w", v.Name, n.Name(), err)
	}
	return nil
}

// UnpublishVolume plays the kubelet.
func (n *Node) UnpublishVolume(ctx context.Context, v *Volume) error {
	_, err := n.CSI.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.ID, TargetPath: v.Target()})
	if err != nil {
		return fmt.Errorf("NodeUnpublishVolume %s on %s: %w", v.Name, n.Name(), err)
	}
	return nil
}

// UnstageVolume plays the kubelet.
func (n *Node) UnstageVolume(ctx context.Context, v *Volume) error {
	_, err := n.CSI.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.ID, StagingTargetPath: v.Staging()})
	if err != nil {
		return fmt.Errorf("NodeUnstageVolume %s on %s: %w", v.Name, n.Name(), err)
	}
	return nil
}

// Use brings a volume from nothing to a pod's path.
func (c *Cluster) Use(ctx context.Context, v *Volume, n *Node) error {
	for _, step := range []func() error{
		func() error { return c.Provision(ctx, v) },
		func() error { return c.Attach(ctx, v, n) },
		func() error { return n.StageVolume(ctx, v) },
		func() error { return n.PublishVolume(ctx, v, false) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// Drop takes a volume from a node again; the volume stays.
func (c *Cluster) Drop(ctx context.Context, v *Volume, n *Node) error {
	for _, step := range []func() error{
		func() error { return n.UnpublishVolume(ctx, v) },
		func() error { return n.UnstageVolume(ctx, v) },
		func() error { return c.Detach(ctx, v, n) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// UUID is the part of the volume ID that names the volume on its storage host.
func (v *Volume) UUID() string {
	_, id, _ := strings.Cut(v.ID, ":")
	return id
}
