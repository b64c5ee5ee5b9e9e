package dm

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The offsets spec and target use are those of the kernel's structure.
func TestSpecLayout(t *testing.T) {
	t.Parallel()
	var s unix.DmTargetSpec
	for name, c := range map[string][2]uintptr{
		"length":      {unsafe.Offsetof(s.Length), 8},
		"next":        {unsafe.Offsetof(s.Next), 20},
		"target type": {unsafe.Offsetof(s.Target_type), 24},
		"size":        {unsafe.Sizeof(s), unix.SizeofDmTargetSpec},
		"header":      {unsafe.Sizeof(unix.DmIoctl{}), headerSize},
		"alignment":   {headerSize % 8, 0},
		"name":        {unsafe.Offsetof(unix.DmNameList{}.Name), nameOffset},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: the kernel has %d, the code %d", name, c[0], c[1])
		}
	}
}

func TestSpec(t *testing.T) {
	t.Parallel()
	longType := strings.Repeat("t", unix.DM_MAX_TYPE_NAME+5)
	tests := map[string]struct {
		table  Table
		target string
	}{
		"empty":                 {Table{}, ""},
		"zero":                  {Table{Sectors: 8, Target: "zero"}, "zero"},
		"parameters of 7 bytes": {Table{Sectors: 1, Target: "linear", Params: "7:0 123"}, "linear"},
		"parameters of 8 bytes": {Table{Sectors: 1, Target: "linear", Params: "7:0 1234"}, "linear"},
		"largest":               {Table{Sectors: 1<<64 - 1, Target: "linear", Params: strings.Repeat("p", 4096)}, "linear"},
		"type too long":         {Table{Sectors: 1, Target: longType}, longType[:unix.DM_MAX_TYPE_NAME-1]},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := c.table.spec()
			if len(b)%8 != 0 || len(b) <= unix.SizeofDmTargetSpec+len(c.table.Params) {
				t.Fatalf("%d bytes: not a multiple of 8 with room for a zero", len(b))
			}
			if start := native.Uint64(b); start != 0 {
				t.Errorf("starts at sector %d", start)
			}
			if n := native.Uint64(b[8:]); n != c.table.Sectors {
				t.Errorf("%d sectors", n)
			}
			if next := native.Uint32(b[20:]); int(next) != len(b) {
				t.Errorf("next is %d of %d", next, len(b))
			}
			if target := cString(b[24:unix.SizeofDmTargetSpec]); target != c.target {
				t.Errorf("target %q", target)
			}
			if params := cString(b[unix.SizeofDmTargetSpec:]); params != c.table.Params {
				t.Errorf("parameters %q", params)
			}
		})
	}
}

func TestCString(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"": "", "\x00": "", "a\x00b\x00": "a", "no end": "no end", "\x00hidden": ""} {
		if got := cString([]byte(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestSplitDev(t *testing.T) {
	t.Parallel()
	// As huge_encode_dev writes them: 8 bits of the minor number, the major, the rest of the minor.
	for dev, want := range map[uint64][2]uint32{
		0:          {0, 0},
		0xfe00:     {254, 0},
		0x1fe2c:    {0x1fe, 0x2c},
		0x10fe2c:   {254, 0x12c},
		0xffffffff: {0xfff, 0xfffff},
	} {
		if major, minor := splitDev(dev); major != want[0] || minor != want[1] {
			t.Errorf("%#x: got %d:%d, want %v", dev, major, minor, want)
		}
	}
}

func TestDeviceOf(t *testing.T) {
	t.Parallel()
	base := Device{Name: "n", UUID: "U", Major: 254, Minor: 300, OpenCount: 2, Events: 9}
	set := func(change func(*Device)) Device { d := base; change(&d); return d }
	tests := map[uint32]Device{
		0:                              base,
		unix.DM_READONLY_FLAG:          set(func(d *Device) { d.ReadOnly = true }),
		unix.DM_SUSPEND_FLAG:           set(func(d *Device) { d.Suspended = true }),
		unix.DM_ACTIVE_PRESENT_FLAG:    set(func(d *Device) { d.HasTable = true }),
		unix.DM_INACTIVE_PRESENT_FLAG:  set(func(d *Device) { d.HasNewTable = true }),
		unix.DM_UEVENT_GENERATED_FLAG:  base,
		unix.DM_PERSISTENT_DEV_FLAG:    base,
		unix.DM_DEFERRED_REMOVE:        base,
		unix.DM_SUSPEND_FLAG | 1<<5:    set(func(d *Device) { d.Suspended, d.HasTable = true, true }),
		^uint32(0):                     set(func(d *Device) { d.ReadOnly, d.Suspended, d.HasTable, d.HasNewTable = true, true, true, true }),
		unix.DM_STATUS_TABLE_FLAG | 32: set(func(d *Device) { d.HasTable = true }),
	}
	for flags, want := range tests {
		a := answer{DmIoctl: unix.DmIoctl{Flags: flags, Dev: unix.Mkdev(254, 300), Open_count: 2, Event_nr: 9}}
		copy(a.Name[:], "n\x00left over")
		copy(a.Uuid[:], "U")
		if got := deviceOf(a); got != want {
			t.Errorf("flags %#x: got %+v, want %+v", flags, got, want)
		}
	}
	if got := base.Disk(); got != "dm-300" {
		t.Errorf("disk %q", got)
	}
}

// A name that fills its field has no zero behind it.
func TestDeviceOfFullName(t *testing.T) {
	t.Parallel()
	var a answer
	fill(a.Name[:], 'n')
	fill(a.Uuid[:], 'u')
	d := deviceOf(a)
	if len(d.Name) != unix.DM_NAME_LEN || len(d.UUID) != unix.DM_UUID_LEN {
		t.Errorf("name of %d, UUID of %d bytes", len(d.Name), len(d.UUID))
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in, busy, want error
	}{
		{unix.ENXIO, ErrBusy, ErrNotFound},
		{unix.EBUSY, ErrBusy, ErrBusy},
		{unix.EBUSY, ErrExists, ErrExists},
		{fmt.Errorf("wrapped: %w", unix.ENXIO), ErrBusy, ErrNotFound},
		{unix.EINVAL, ErrBusy, unix.EINVAL},
	}
	for _, c := range tests {
		got := wrap(c.in, c.busy)
		if !errors.Is(got, c.want) || !errors.Is(got, c.in) {
			t.Errorf("%v: got %v, want %v", c.in, got, c.want)
		}
		for _, other := range []error{ErrNotFound, ErrExists, ErrBusy} {
			if other != c.want && errors.Is(got, other) {
				t.Errorf("%v is %v, too", got, other)
			}
		}
	}
	if err := wrap(nil, ErrBusy); err != nil {
		t.Errorf("no error became %v", err)
	}
}
