//go:build linux

package guest

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

type mount struct {
	source, target, fs string
	flags              uintptr
	data               string
	optional           bool
}

func systemMounts() []mount {
	const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []mount{
		{"proc", "/proc", "proc", plain, "", false},
		{"sysfs", "/sys", "sysfs", plain, "", false},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755", false},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "ptmxmode=0666,mode=0620", true},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "", false},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755", false},
		{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "", false},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", plain, "", true},
		{"debugfs", "/sys/kernel/debug", "debugfs", plain, "", true},
		{"tracefs", "/sys/kernel/tracing", "tracefs", plain, "", true},
	}
}

// enterRoot puts a mount of its own over the initial root file system. Nothing is copied, but pivot_root(2), which
// refuses the initial root file system itself, then works, so a container runtime can run here.
func enterRoot() error {
	const newRoot = "/mnt"
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", newRoot, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind / on %s: %w", newRoot, err)
	}
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(newRoot, "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to /: %w", newRoot, err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	for _, m := range systemMounts() {
		err := mountOne(m)
		if err != nil && !m.optional {
			return err
		}
	}
	// Programs that mount below /data or /var/lib/kubelet expect, as on a systemd machine, that mounts propagate.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make / shared: %w", err)
	}
	return nil
}

func mountOne(m mount) error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.fs, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.fs, m.target, err)
	}
	return nil
}

// mountConfigfs follows the modules, because configfs may be one.
func mountConfigfs() error {
	err := mountOne(mount{source: "configfs", target: "/sys/kernel/config", fs: "configfs"})
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) {
		milestone("no configfs in this kernel: %v", err)
		return nil
	}
	return err
}
