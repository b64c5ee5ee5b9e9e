package filesystem

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mount"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Mount is one line of the mount table, as far as it matters here.
type Mount struct {
	Path         string
	Major, Minor uint32 // of the file system's device, not of a device node bound to Path
	Root         string // path inside the file system that is mounted at Path
	FSType       string
	Options      []string // per mount
	Source       string
}

// Mounts reads the mount table of this process's mount namespace.
func Mounts() ([]Mount, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	out := make([]Mount, len(infos))
	for i, m := range infos {
		out[i] = Mount{
			Path: m.Mountpoint, Major: uint32(m.Major), Minor: uint32(m.Minor),
			Root: m.Root, FSType: m.FSType, Options: strings.Split(m.Options, ","), Source: m.Source,
		}
	}
	return out, nil
}

// MountedAt returns the topmost mount at path. It never touches path itself,
// because a look at a dead mount may hang or fail.
func MountedAt(mounts []Mount, path string) (Mount, bool) {
	for i := len(mounts) - 1; i >= 0; i-- {
		if mounts[i].Path == path {
			return mounts[i], true
		}
	}
	return Mount{}, false
}

const propagated = "how mounts are propagated is the kubelet's business"

// refusedOptions would change what is mounted, or where, or break the promise
// that a volume's errors are seen.
var refusedOptions = map[string]string{
	"bind": "it is decided by the driver", "rbind": "it is decided by the driver",
	"remount": "it is decided by the driver", "move": "it is decided by the driver",
	"shared": propagated, "rshared": propagated, "private": propagated, "rprivate": propagated,
	"slave": propagated, "rslave": propagated, "unbindable": propagated, "runbindable": propagated,
	"loop": "a volume is a device", "device": "it names another device", "logdev": "it names another device",
	"rtdev": "it names another device", "journal_path": "it names another device", "journal_dev": "it names another device",
	"errors":     "only errors=remount-ro keeps a damaged file system from growing worse",
	"norecovery": "it hides acknowledged writes", "noload": "it hides acknowledged writes",
	"nobarrier": "acknowledged writes would not be on disk", "barrier": "acknowledged writes must be on disk",
	"sb": "it names another superblock", "data_err": "errors must be seen", "suid": "volumes are mounted with the pod's rules",
}

// ValidateOptions refuses mount options that would break what the driver
// promises. The kernel judges the others.
func ValidateOptions(options []string) error {
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		if o == "" || strings.ContainsAny(o, ", \t\n\x00") {
			return fmt.Errorf("mount option %q: want one option without blanks and commas: %w", o, volume.ErrInvalid)
		}
		if o == "errors=remount-ro" {
			continue
		}
		if why, ok := refusedOptions[name]; ok {
			return fmt.Errorf("mount option %q (value %q) is refused: %s: %w", name, value, why, volume.ErrInvalid)
		}
	}
	return nil
}

// MountDevice mounts device at path. For XFS it adds nouuid: identity is
// proven by NVMe IDs, and a dead mount of the same file system that a pod
// still holds must not keep the new one out.
func MountDevice(device, path string, kind Kind, options []string) error {
	if kind == XFS {
		options = append([]string{"nouuid"}, options...)
	}
	if err := mount.Mount(device, path, string(kind), strings.Join(options, ",")); err != nil {
		return fmt.Errorf("mount %s (%s) at %s: %w", device, kind, path, err)
	}
	return nil
}

// Bind mounts source, a directory or a device node, at target, read-only if asked.
func Bind(source, target string, readOnly bool) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", source, target, err)
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		err = fmt.Errorf("make %s read-only: %w", target, err)
		return errors.Join(err, Unmount(target))
	}
	return nil
}

// Unmount takes the topmost mount at path away. Nothing mounted there is no
// error. It is never lazy: a lazy unmount hides a file system that still has
// unwritten data.
func Unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("unmount %s: %w", path, err)
}

// MakeDir makes a mount point directory with its parents.
func MakeDir(path string) error {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	return nil
}

// MakeFile makes the empty file that a device node is bound to.
func MakeFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	return f.Close()
}

// RemoveMountPoint removes the empty directory or file of a mount point.
// Nothing there is no error; a directory with entries is, for the entries are
// not ours.
func RemoveMountPoint(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove mount point: %w", err)
	}
	return nil
}
