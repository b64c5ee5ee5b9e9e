package filesystem

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Sync writes everything of the file system mounted at path to its device and
// returns the error that the kernel kept of any earlier write-back that failed
// (syncfs(2), Linux 5.8 on). It may hang: call it through Bounded.
func Sync(path string) (err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("sync: open %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("syncfs %s: %w", path, err)
	}
	return nil
}

// FlushDevice writes the page cache of a block device to it and makes the
// device flush its own cache. It may hang: call it through Bounded.
func FlushDevice(device string) (err error) {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("flush %s: %w", device, err)
	}
	return nil
}

// SuperblockGone says whether no superblock of kind is left on disk (a name
// such as nvme0n1). An unmount that hangs is out of the mount table at once
// while its superblock still waits to be written, so this directory, which the
// file system removes when the superblock is dead, is the only honest answer.
func SuperblockGone(sysRoot string, kind Kind, disk string) (bool, error) {
	_, err := os.Lstat(filepath.Join(sysRoot, "fs", string(kind), disk))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("look for a superblock on %s: %w", disk, err)
	default:
		return false, nil
	}
}

// Errors is how many errors the file system on disk, mounted at path, has met. One
// that grows while it is mounted means that the file system has stopped or is
// about to, whatever the path to its disk is like by now: an aborted journal (ext4,
// which counts in sysfs: Documentation/ABI/testing/sysfs-fs-ext4) or a shutdown
// (XFS, which then answers nothing, and is counted as 1). Not being mounted any
// more is no error. It may hang: call it through Bounded.
func Errors(sysRoot string, kind Kind, disk, path string) (int, error) {
	if kind == XFS {
		err := unix.Stat(path, &unix.Stat_t{})
		switch {
		case errors.Is(err, unix.EIO):
			return 1, nil
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return 0, fmt.Errorf("stat %s: %w", path, err)
		}
		return 0, nil
	}
	text, err := os.ReadFile(filepath.Join(sysRoot, "fs", string(kind), disk, "errors_count"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("errors of the file system on %s: %w", disk, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("errors of the file system on %s: %w", disk, err)
	}
	return n, nil
}

// Usage is the fill of a file system or the size of a device.
type Usage struct {
	TotalBytes, UsedBytes, AvailableBytes    int64
	TotalInodes, UsedInodes, AvailableInodes int64
}

// Stat reads the usage of the file system mounted at path. It may hang.
func Stat(path string) (Usage, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return Usage{}, fmt.Errorf("statfs %s: %w", path, err)
	}
	bs := int64(s.Bsize)
	return Usage{
		TotalBytes: int64(s.Blocks) * bs, AvailableBytes: int64(s.Bavail) * bs, UsedBytes: int64(s.Blocks-s.Bfree) * bs,
		TotalInodes: int64(s.Files), AvailableInodes: int64(s.Ffree), UsedInodes: int64(s.Files - s.Ffree),
	}, nil
}
