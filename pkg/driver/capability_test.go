package driver

import (
	"errors"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

func mountCapability(mode csi.VolumeCapability_AccessMode_Mode, fsType string, flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType, MountFlags: flags}},
	}
}

func blockCapability(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	}
}

// TestAccessModes: every mode that CSI knows is served or refused on purpose.
func TestAccessModes(t *testing.T) {
	t.Parallel()
	served := map[csi.VolumeCapability_AccessMode_Mode]bool{
		csi.VolumeCapability_AccessMode_UNKNOWN:                   false,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:        true,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:   true,
		csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:    false,
		csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:  false,
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:   false,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: true,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  true,
	}
	for number, name := range csi.VolumeCapability_AccessMode_Mode_name {
		mode := csi.VolumeCapability_AccessMode_Mode(number)
		want, decided := served[mode]
		if !decided {
			t.Errorf("%s: a mode that nobody decided on", name)
		}
		for what, c := range map[string]*csi.VolumeCapability{"mount": mountCapability(mode, "ext4"), "block": blockCapability(mode)} {
			err := checkCapability(c)
			if (err == nil) != want || !want && (!errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), name)) {
				t.Errorf("%s %s: %v, want served: %v", what, name, err, want)
			}
		}
	}
}

func TestCheckCapabilities(t *testing.T) {
	t.Parallel()
	const writer = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	for name, c := range map[string]struct {
		list []*csi.VolumeCapability
		says string // "" = fine
	}{
		"default fs":      {[]*csi.VolumeCapability{mountCapability(writer, "")}, ""},
		"xfs":             {[]*csi.VolumeCapability{mountCapability(writer, "xfs", "noatime")}, ""},
		"block":           {[]*csi.VolumeCapability{blockCapability(writer)}, ""},
		"both":            {[]*csi.VolumeCapability{blockCapability(writer), mountCapability(writer, "ext4")}, ""},
		"none":            {nil, "missing"},
		"nil":             {[]*csi.VolumeCapability{nil}, "missing"},
		"empty":           {[]*csi.VolumeCapability{{}}, "UNKNOWN"},
		"no access type":  {[]*csi.VolumeCapability{{AccessMode: &csi.VolumeCapability_AccessMode{Mode: writer}}}, "mount or block"},
		"no access mode":  {[]*csi.VolumeCapability{{AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}}}, "UNKNOWN"},
		"unknown mode":    {[]*csi.VolumeCapability{blockCapability(99)}, "99"},
		"other fs":        {[]*csi.VolumeCapability{mountCapability(writer, "btrfs")}, `"btrfs"`},
		"upper case fs":   {[]*csi.VolumeCapability{mountCapability(writer, "EXT4")}, `"EXT4"`},
		"mount flag":      {[]*csi.VolumeCapability{mountCapability(writer, "ext4", "errors=panic")}, `"errors"`},
		"one bad of two":  {[]*csi.VolumeCapability{blockCapability(writer), mountCapability(writer, "zfs")}, `"zfs"`},
		"flag with comma": {[]*csi.VolumeCapability{mountCapability(writer, "ext4", "noatime,errors=panic")}, "errors=panic"},
	} {
		err := checkCapabilities(c.list)
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.says != "" && (!errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v, want ErrInvalid that says %s", name, err, c.says)
		}
	}
}
