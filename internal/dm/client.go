package dm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bufferSize holds any request and answer of tables with one target: the kernel
// makes room for all of it and copies it, with each call. A list of devices that
// does not fit is asked for again with more room.
const bufferSize = 2 << 10

// interface version: 4.x is what every kernel since 2.6 speaks; the kernel
// refuses a major number that is not its own, and a minor above it.
var interfaceVersion = [3]uint32{4, 0, 0}

// Client is an open /dev/mapper/control. Its methods may be called
// concurrently: a suspend that waits holds up nobody else.
type Client struct {
	file    *os.File
	fd      uintptr // of file
	buffers sync.Pool
	listed  listed
}

// Open opens DEV/mapper/control, which loads the module where udev or kmod made
// the node.
func Open(dev string) (*Client, error) {
	f, err := os.OpenFile(filepath.Join(dev, unix.DM_DIR, unix.DM_CONTROL_NODE), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("device mapper: %w", err)
	}
	return &Client{file: f, fd: f.Fd(), buffers: sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}}, nil
}

// Close ends the client.
func (c *Client) Close() error { return c.file.Close() }

// request is one ioctl.
type request struct {
	op         uintptr
	name, uuid string
	flags      uint32
	event      uint32 // event number, or udev flags in the upper half
	targets    uint32
	payload    []byte
}

// answer is what came back; data is valid until the buffer is given back.
type answer struct {
	unix.DmIoctl
	data []byte
}

const headerSize = unix.SizeofDmIoctl

// do carries out r and hands the answer to use before the buffer is given back.
func (c *Client) do(r request, use func(answer) error) error {
	b := c.buffers.Get().(*[]byte)
	defer c.buffers.Put(b)
	for {
		a, err := c.call(r, *b)
		if err != nil {
			return fmt.Errorf("device mapper: %s %s: %w", opNames[r.op], r.name+r.uuid, err)
		}
		if a.Flags&unix.DM_BUFFER_FULL_FLAG != 0 {
			*b = make([]byte, 2*len(*b))
			continue
		}
		if use == nil {
			return nil
		}
		return use(a)
	}
}

var errTooLong = errors.New("name, UUID or table is too long")

func (c *Client) call(r request, b []byte) (answer, error) {
	if len(r.name) >= unix.DM_NAME_LEN || len(r.uuid) >= unix.DM_UUID_LEN || headerSize+len(r.payload) > len(b) {
		return answer{}, errTooLong
	}
	clear(b)
	h := (*unix.DmIoctl)(unsafe.Pointer(&b[0]))
	h.Version = interfaceVersion
	h.Data_size, h.Data_start = uint32(len(b)), headerSize
	h.Flags, h.Event_nr, h.Target_count = r.flags, r.event, r.targets
	copy(h.Name[:], r.name)
	copy(h.Uuid[:], r.uuid)
	copy(b[headerSize:], r.payload)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, c.fd, r.op, uintptr(unsafe.Pointer(h)))
	runtime.KeepAlive(c.file)
	if errno != 0 {
		return answer{}, errno
	}
	if uint64(h.Data_start) > uint64(h.Data_size) || uint64(h.Data_size) > uint64(len(b)) {
		h.Data_start, h.Data_size = 0, 0
	}
	return answer{*h, b[h.Data_start:h.Data_size]}, nil
}

var opNames = map[uintptr]string{
	unix.DM_VERSION: "version", unix.DM_LIST_DEVICES: "list", unix.DM_DEV_ARM_POLL: "wait for events of", unix.DM_DEV_CREATE: "create", unix.DM_DEV_REMOVE: "remove",
	unix.DM_DEV_SUSPEND: "suspend or resume", unix.DM_DEV_STATUS: "look at", unix.DM_TABLE_LOAD: "load a table into",
	unix.DM_TABLE_CLEAR: "drop the new table of", unix.DM_TABLE_STATUS: "read the table of", unix.DM_TARGET_MSG: "send a message to",
	unix.DM_GET_TARGET_VERSION: "find target",
}

// cString is the text up to the first zero.
func cString(b []byte) string {
	for i, x := range b {
		if x == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// splitDev takes a device number apart as huge_encode_dev puts it together.
func splitDev(dev uint64) (major, minor uint32) { return unix.Major(dev), unix.Minor(dev) }

var native = binary.NativeEndian
