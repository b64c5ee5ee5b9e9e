package node

import (
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Attachment says where a volume is to be found and who vouches for it.
type Attachment struct {
	Session  initiator.Session
	Identity initiator.Identity
	// Eager asks the watch to keep the session's reconnect delay at one second.
	Eager bool
	// Managed is nil for static volumes: targets that others run.
	Managed *Managed
	// FormatZeroed allows a static volume to be formatted if every one of its
	// bytes reads as zero.
	FormatZeroed bool
}

// Managed is what a volume of one of our storage hosts has in addition.
type Managed struct {
	Host string // name of the storage host, whose agent is asked
	Ref  volume.PublicationRef
}

// Generation orders the publications of one volume; a static volume has one.
func (a Attachment) Generation() uint64 {
	if a.Managed == nil {
		return 0
	}
	return a.Managed.Ref.Generation
}

// StageRequest asks for a volume at a staging path. An empty FSType stages it
// as a raw block device.
type StageRequest struct {
	VolumeID     string
	StagingPath  string
	FSType       string
	MountOptions []string
	ReadOnly     bool
	Attachment   Attachment
}

// PublishRequest asks for a staged volume at a pod's path.
type PublishRequest struct {
	StageRequest
	TargetPath string
	// TargetReadOnly makes the pod's view read-only; the stage may be writable.
	TargetReadOnly bool
	// Exclusive refuses a second path while the volume is published at another
	// (ReadWriteOncePod).
	Exclusive bool
}
