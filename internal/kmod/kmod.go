// Package kmod makes sure that kernel modules are there. It loads what the
// machine has, by modprobe, and says plainly what it has not; it never unloads.
package kmod

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Load loads the modules that are not loaded yet. In a container modprobe needs
// the host's /lib/modules.
func Load(ctx context.Context, run command.Runner, names ...string) error {
	for _, name := range names {
		if loaded("/sys", name) {
			continue
		}
		if _, err := run.Run(ctx, "modprobe", name); err != nil && !loaded("/sys", name) {
			return fmt.Errorf("kernel module %s is neither loaded nor can it be: install the kernel's modules, or load it before: %w: %w", name, volume.ErrPrecondition, err)
		}
	}
	return nil
}

// loaded also holds for what is built into the kernel, as far as it has
// parameters or a reference count.
func loaded(sys, name string) bool {
	_, err := os.Stat(filepath.Join(sys, "module", strings.ReplaceAll(name, "-", "_")))
	return err == nil
}

// configfsMagic is CONFIGFS_MAGIC of fs/configfs/mount.c.
const configfsMagic = 0x62656570

// MountConfigFS mounts configfs at dir unless something is mounted there.
func MountConfigFS(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("configfs: %w: %w", volume.ErrPrecondition, err)
	}
	if st.Type == configfsMagic {
		return nil
	}
	if err := unix.Mount("none", dir, "configfs", 0, ""); err != nil {
		return fmt.Errorf("mount configfs at %s: %w: %w", dir, volume.ErrPrecondition, err)
	}
	return nil
}
