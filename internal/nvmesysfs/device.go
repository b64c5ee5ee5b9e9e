package nvmesysfs

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrNotReady is what every NotReadyError is.
var ErrNotReady = errors.New("device node is not ready")

// NotReadyError says that sysfs shows a disk and its device node cannot be used, most
// often because devtmpfs or udev is a moment behind.
type NotReadyError struct {
	Path string
	Err  error
}

func (e *NotReadyError) Error() string { return fmt.Sprintf("%s: %v: %v", e.Path, ErrNotReady, e.Err) }

// Unwrap gives the cause.
func (e *NotReadyError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrNotReady) hold.
func (e *NotReadyError) Is(target error) bool { return target == ErrNotReady }

// Retryable is true: the node may appear.
func (e *NotReadyError) Retryable() bool { return true }

// DeviceNode returns the path of the namespace's node under Dev, after checking
// that it is a block device with the namespace's number: a redirect to a name
// without a node makes a regular file of that name, and the name may have
// passed to another disk. Otherwise the error is a *NotReadyError. The device
// is not opened.
func (f FS) DeviceNode(ns Namespace) (string, error) {
	path := filepath.Join(f.Dev, ns.Disk)
	stat := f.stat
	if stat == nil {
		stat = statNode
	}
	block, major, minor, err := stat(path)
	switch {
	case err != nil:
		return "", &NotReadyError{path, err}
	case !block:
		return "", &NotReadyError{path, errors.New("it is not a block device")}
	case major != ns.Major || minor != ns.Minor:
		return "", &NotReadyError{path, fmt.Errorf("it is device %d:%d, want %d:%d", major, minor, ns.Major, ns.Minor)}
	}
	return path, nil
}

// statNode does not follow links: a link in /dev is not what devtmpfs makes.
func statNode(path string) (block bool, major, minor uint32, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return false, 0, 0, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFBLK, unix.Major(st.Rdev), unix.Minor(st.Rdev), nil
}
