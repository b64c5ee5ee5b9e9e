package dm

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Device is what the kernel says of a device.
type Device struct {
	Name, UUID   string
	Major, Minor uint32
	OpenCount    int
	Events       uint32 // grows with every event of its target
	ReadOnly     bool
	Suspended    bool
	HasTable     bool // a table is in use
	HasNewTable  bool // one is loaded and waits for a resume
}

// Disk is the name of the device under /dev and /sys/block.
func (d Device) Disk() string { return fmt.Sprintf("dm-%d", d.Minor) }

// Number is the device number as tables have it, MAJOR:MINOR.
func (d Device) Number() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

func deviceOf(a answer) Device {
	major, minor := splitDev(a.Dev)
	return Device{
		Name: cString(a.Name[:]), UUID: cString(a.Uuid[:]), Major: major, Minor: minor, OpenCount: int(a.Open_count), Events: a.Event_nr,
		ReadOnly: a.Flags&unix.DM_READONLY_FLAG != 0, Suspended: a.Flags&unix.DM_SUSPEND_FLAG != 0,
		HasTable: a.Flags&unix.DM_ACTIVE_PRESENT_FLAG != 0, HasNewTable: a.Flags&unix.DM_INACTIVE_PRESENT_FLAG != 0,
	}
}

// Errors of the device mapper that callers tell apart.
var (
	ErrNotFound = errors.New("no such device")
	ErrExists   = errors.New("a device of that name or UUID exists")
	ErrBusy     = errors.New("the device is in use")
)

// wrap adds the word for an error number. EBUSY means "exists" for a create.
func wrap(err error, busy error) error {
	switch {
	case errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: %w", busy, err)
	default:
		return err
	}
}

// device runs a request that is answered with the state of a device.
func (c *Client) device(r request, busy error) (d Device, err error) {
	err = c.do(r, func(a answer) error { d = deviceOf(a); return nil })
	return d, wrap(err, busy)
}

// Create makes a device without a table.
func (c *Client) Create(name, uuid string) (Device, error) {
	return c.device(request{op: unix.DM_DEV_CREATE, name: name, uuid: uuid}, ErrExists)
}

// Get looks at a device.
func (c *Client) Get(name string) (Device, error) {
	return c.device(request{op: unix.DM_DEV_STATUS, name: name}, ErrBusy)
}

// Table is one target over the whole of a device.
type Table struct {
	Sectors  uint64 // of 512 bytes
	Target   string
	Params   string
	ReadOnly bool
}

// Load loads a table beside the one in use. It takes effect with Resume.
func (c *Client) Load(name string, t Table) error {
	flags := uint32(0)
	if t.ReadOnly {
		flags = unix.DM_READONLY_FLAG
	}
	err := c.do(request{op: unix.DM_TABLE_LOAD, name: name, flags: flags, targets: 1, payload: t.spec()}, nil)
	if errors.Is(err, unix.ENXIO) {
		// The device, or one that the table names and that is gone.
		if _, gerr := c.Get(name); gerr == nil {
			return err
		}
	}
	return wrap(err, ErrBusy)
}

// spec is struct dm_target_spec and the parameters behind it, in steps of 8 bytes.
func (t Table) spec() []byte {
	n := unix.SizeofDmTargetSpec + len(t.Params) + 1
	b := make([]byte, (n+7)&^7)
	native.PutUint64(b[8:], t.Sectors)
	native.PutUint32(b[20:], uint32(len(b)))
	copy(b[24:24+unix.DM_MAX_TYPE_NAME-1], t.Target)
	copy(b[unix.SizeofDmTargetSpec:], t.Params)
	return b
}

// Clear drops a table that was loaded and never resumed.
func (c *Client) Clear(name string) error {
	_, err := c.device(request{op: unix.DM_TABLE_CLEAR, name: name}, ErrBusy)
	return err
}

// Suspend holds new I/O back and waits until none is under way. It neither
// flushes nor freezes a file system: what a target queues stays with the device
// and goes to the next table. It can wait as long as the I/O does.
func (c *Client) Suspend(name string) error {
	_, err := c.device(request{op: unix.DM_DEV_SUSPEND, name: name, flags: unix.DM_SUSPEND_FLAG | unix.DM_NOFLUSH_FLAG | unix.DM_SKIP_LOCKFS_FLAG}, ErrBusy)
	return err
}

// UdevFlags tell the rules of udev what to leave alone (libdevmapper.h,
// DM_UDEV_*). They travel with the event in the upper half of its cookie.
type UdevFlags uint16

// NoScan keeps all rules from opening the device: those of subsystems (LVM,
// multipath), those that look for what is on the disk, and everybody else's. The
// rules that make the links in /dev/mapper still run.
const NoScan UdevFlags = 1<<1 | 1<<2 | 1<<3

// Resume puts the loaded table, if any, in the place of the one in use, and lets
// I/O go on.
func (c *Client) Resume(name string, f UdevFlags) (Device, error) {
	return c.device(request{op: unix.DM_DEV_SUSPEND, name: name, event: uint32(f) << 16}, ErrBusy)
}

// Remove removes a device; ErrBusy while anything has it open.
func (c *Client) Remove(name string) error {
	_, err := c.device(request{op: unix.DM_DEV_REMOVE, name: name}, ErrBusy)
	return err
}

// Message sends a message to the target at the start of the device.
func (c *Client) Message(name, text string) error {
	b := make([]byte, 8+len(text)+1)
	copy(b[8:], text)
	_, err := c.device(request{op: unix.DM_TARGET_MSG, name: name, payload: b}, ErrBusy)
	return err
}

// Target is the one target of a device, as the kernel tells it.
type Target struct {
	Sectors uint64
	Type    string // "linear"
	Text    string
}

// Status reads what the target of a device says of itself, with the device.
func (c *Client) Status(name string) (Device, Target, error) { return c.target(name, 0) }

// Table reads the table in use as it would be loaded.
func (c *Client) Table(name string) (Device, Target, error) {
	return c.target(name, unix.DM_STATUS_TABLE_FLAG)
}

// Loaded reads the table that was loaded and is not in use.
func (c *Client) Loaded(name string) (Device, Target, error) {
	return c.target(name, unix.DM_STATUS_TABLE_FLAG|unix.DM_QUERY_INACTIVE_TABLE_FLAG)
}

// target reads without flushing: a status that flushes waits for I/O.
func (c *Client) target(name string, flags uint32) (d Device, t Target, err error) {
	err = c.do(request{op: unix.DM_TABLE_STATUS, name: name, flags: flags | unix.DM_NOFLUSH_FLAG}, func(a answer) error {
		d = deviceOf(a)
		if a.Target_count > 0 && len(a.data) > unix.SizeofDmTargetSpec {
			t = Target{
				Sectors: native.Uint64(a.data[8:]), Type: cString(a.data[24 : 24+unix.DM_MAX_TYPE_NAME]),
				Text: strings.TrimSpace(cString(a.data[unix.SizeofDmTargetSpec:])),
			}
		}
		return nil
	})
	return d, t, wrap(err, ErrBusy)
}
