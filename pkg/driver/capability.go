package driver

import (
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// singleNode are the access modes that are served: one node at a time, which
// the storage host enforces.
var singleNode = map[csi.VolumeCapability_AccessMode_Mode]bool{
	csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:        true,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:   true,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: true,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  true,
}

// checkCapability refuses what cannot be kept.
func checkCapability(c *csi.VolumeCapability) error {
	if c == nil {
		return fmt.Errorf("volume capability is missing: %w", volume.ErrInvalid)
	}
	mode := c.GetAccessMode().GetMode()
	if !singleNode[mode] {
		return fmt.Errorf("access mode %s: a volume is used by one node at a time (ReadWriteOnce, ReadWriteOncePod): %w", mode, volume.ErrInvalid)
	}
	switch {
	case c.GetBlock() != nil:
		return nil
	case c.GetMount() != nil:
		if _, err := filesystem.ParseKind(c.GetMount().GetFsType()); err != nil {
			return err
		}
		return filesystem.ValidateOptions(c.GetMount().GetMountFlags())
	default:
		return fmt.Errorf("volume capability: want access type mount or block: %w", volume.ErrInvalid)
	}
}

func checkCapabilities(cs []*csi.VolumeCapability) error {
	if len(cs) == 0 {
		return fmt.Errorf("volume capabilities are missing: %w", volume.ErrInvalid)
	}
	for _, c := range cs {
		if err := checkCapability(c); err != nil {
			return err
		}
	}
	return nil
}

// checkFormatOptions refuses options of mkfs that one of the file systems asked for
// does not take.
func checkFormatOptions(options string, cs []*csi.VolumeCapability) error {
	for _, c := range cs {
		if c.GetMount() == nil {
			continue
		}
		kind, err := filesystem.ParseKind(c.GetMount().GetFsType())
		if err == nil {
			_, err = filesystem.ParseFormatOptions(kind, options)
		}
		if err != nil {
			return fmt.Errorf("parameter %s: %w", paramMkfs, err)
		}
	}
	return nil
}

// requiredBytes is the size that is asked for, and more where the file system needs
// it: a volume that is too small for its file system would be found out by the pod.
// No size at all is left to the storage host.
func requiredBytes(req *csi.CreateVolumeRequest) (int64, error) {
	size, limit := req.GetCapacityRange().GetRequiredBytes(), req.GetCapacityRange().GetLimitBytes()
	for _, c := range req.GetVolumeCapabilities() {
		if c.GetMount() == nil {
			continue
		}
		kind, err := filesystem.ParseKind(c.GetMount().GetFsType())
		if err != nil {
			return 0, err
		}
		least := kind.MinimumBytes()
		switch {
		case limit > 0 && limit < least:
			return 0, fmt.Errorf("limit %d: %s needs at least %d bytes: %w", limit, kind, least, volume.ErrOutOfRange)
		case size > 0:
			size = max(size, least)
		}
	}
	return size, nil
}

// required fails for the first empty one of name, value pairs.
func required(pairs ...string) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			return fmt.Errorf("%s is missing: %w", pairs[i], volume.ErrInvalid)
		}
	}
	return nil
}
