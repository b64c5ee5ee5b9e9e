package node

import (
	"fmt"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Attachment says where a volume is to be found and who vouches for it.
type Attachment struct {
	Session  initiator.Session
	Identity initiator.Identity
	// Eager asks the watch to keep the session's reconnect delay at one second.
	Eager bool
	// Guard is what holds I/O while the device is away.
	Guard Guard
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

// Guard is what a class asks for.
type Guard string

// The guards. GuardAuto, and the empty one, let the node choose: GuardDM.
const (
	GuardAuto   Guard = "auto"
	GuardKernel Guard = "kernel"
	GuardDM     Guard = "dm"
)

// ParseGuard reads a guard; empty is GuardAuto.
func ParseGuard(s string) (Guard, error) {
	switch g := Guard(s); g {
	case "":
		return GuardAuto, nil
	case GuardAuto, GuardKernel, GuardDM:
		return g, nil
	default:
		return "", fmt.Errorf("guard: value %q: want auto, kernel or dm: %w", s, volume.ErrInvalid)
	}
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
	// FormatOptions are for the mkfs, should one be needed (ParseFormatOptions); only
	// then are they judged.
	FormatOptions string `json:",omitempty"`
	ReadOnly      bool
	Attachment    Attachment
	// Claim is what people call the volume, NAMESPACE/NAME; "" if that is not known.
	// Nothing is decided by it.
	Claim string `json:",omitempty"`
	// PersistentVolume is the one that it was made as; "" if that is not known. It may
	// have another name by now, so it is for telling people only.
	PersistentVolume string `json:",omitempty"`
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
