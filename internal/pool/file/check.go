package file

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// checkDir refuses a directory that cannot hold a pool.
func checkDir(o Options) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("pool %q: directory %q: %s: %w", o.Name, o.Dir, fmt.Sprintf(format, args...), volume.ErrPrecondition)
	}
	if !filepath.IsAbs(o.Dir) {
		return fail("the path must be absolute")
	}
	if filepath.Clean(o.Dir) != o.Dir {
		return fail("the path must be in its shortest form, %q", filepath.Clean(o.Dir))
	}
	fi, err := os.Lstat(o.Dir)
	switch {
	case os.IsNotExist(err):
		return fail("does not exist")
	case err != nil:
		return fail("%v", err)
	case fi.Mode()&os.ModeSymlink != 0:
		return fail("is a symbolic link; name the directory itself")
	case !fi.IsDir():
		return fail("is not a directory")
	}
	real, err := filepath.EvalSymlinks(o.Dir)
	if err != nil {
		return fail("%v", err)
	}
	if real != o.Dir {
		return fail("the path leads through a symbolic link; name %q", real)
	}
	if o.AllowAnyFS {
		return nil
	}
	name, ok, err := fsType(o.Dir)
	if err != nil {
		return fail("%v", err)
	}
	if !ok {
		return fail("is on %s; a pool needs xfs, btrfs or ext4", name)
	}
	return nil
}

// checkVolumesDir refuses a "volumes" that is a link or another file system:
// the marker vouches only for the file system that it lies on.
func checkVolumesDir(o Options) error {
	path := filepath.Join(o.Dir, volumesDir)
	fail := func(rule string) error {
		return fmt.Errorf("pool %q: %q: %s: %w", o.Name, path, rule, volume.ErrPrecondition)
	}
	var st, parent unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fail("cannot be used: " + err.Error())
	}
	if err := unix.Lstat(o.Dir, &parent); err != nil {
		return fail("cannot be used: " + err.Error())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fail("must be a directory")
	}
	if st.Dev != parent.Dev {
		return fail("must be on the same file system (and btrfs subvolume) as the pool's directory")
	}
	return nil
}

// fsType names the type of the file system at dir and says whether it may hold
// a pool. The magic number decides; the mount table gives the name, and tells
// ext4 from ext2 and ext3, which share its number.
func fsType(dir string) (name string, ok bool, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", false, fmt.Errorf("statfs %q: %w", dir, err)
	}
	name = fmt.Sprintf("a file system with magic number %#x", uint32(fs.Type))
	m, err := mountOf(dir)
	if err == nil {
		name = m.FSType
	}
	switch uint32(fs.Type) {
	case unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		return name, true, nil
	case unix.EXT4_SUPER_MAGIC:
		if err != nil {
			return name, false, fmt.Errorf("cannot tell ext4 from ext2: %w", err)
		}
		return name, name == "ext4", nil
	}
	return name, false, nil
}

// mountOf returns the mount that dir lies on: the longest mount point above
// it, and of several at one place the last, which covers the others.
func mountOf(dir string) (*mountinfo.Info, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(dir))
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	var best *mountinfo.Info
	for _, m := range mounts {
		if !within(dir, m.Mountpoint) {
			continue
		}
		if best == nil || len(m.Mountpoint) >= len(best.Mountpoint) {
			best = m
		}
	}
	if best == nil {
		return nil, fmt.Errorf("no mount above %q in the mount table: %w", dir, volume.ErrNotFound)
	}
	return best, nil
}

// within exists because ParentsFilter goes by text: to it /a is above /ab.
func within(dir, mountpoint string) bool {
	return mountpoint == "/" || dir == mountpoint || strings.HasPrefix(dir, mountpoint+"/")
}
