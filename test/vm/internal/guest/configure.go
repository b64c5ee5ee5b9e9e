//go:build linux

package guest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

const diskWait = 10 * time.Second

// configure makes the machine what its Config says.
func configure(cfg wire.Config) error {
	milestone("kernel and root are up")
	if err := writeIdentity(cfg); err != nil {
		return err
	}
	loadModules(cfg.Modules)
	milestone("%d modules are loaded", len(cfg.Modules))
	if err := mountConfigfs(); err != nil {
		return err
	}
	if err := configureLinks(cfg.Links); err != nil {
		return err
	}
	milestone("network is up")
	if cfg.Disk != nil {
		if err := mountDisk(*cfg.Disk); err != nil {
			return err
		}
		milestone("disk is there")
	}
	return nil
}

func writeIdentity(cfg wire.Config) error {
	if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
		return fmt.Errorf("set hostname %s: %w", cfg.Hostname, err)
	}
	hosts := "127.0.0.1 localhost\n"
	for _, h := range cfg.Hosts {
		hosts += h.Addr + " " + h.Name + "\n"
	}
	for path, content := range map[string]string{
		"/etc/hostname":   cfg.Hostname + "\n",
		"/etc/machine-id": cfg.MachineID + "\n",
		"/etc/hosts":      hosts,
	} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1",
		"/dev/stderr": "/proc/self/fd/2", "/etc/mtab": "/proc/self/mounts",
	} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// loadModules loads files in the order given. A module that does not load is reported and does not stop the boot: the
// test that needs it will say more about it than this program can.
func loadModules(paths []string) {
	for _, path := range paths {
		if err := loadModule(path); err != nil {
			milestone("module %s: %v", path, err)
		}
	}
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func mountDisk(d wire.Disk) error {
	deadline := time.Now().Add(diskWait)
	for !isBlockDevice(d.Device) {
		if time.Now().After(deadline) {
			return fmt.Errorf("disk %s: no block device after %s", d.Device, diskWait)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if d.FS == "" {
		return nil
	}
	if err := os.MkdirAll(d.Mount, 0o755); err != nil {
		return err
	}
	err := unix.Mount(d.Device, d.Mount, d.FS, 0, "")
	if errors.Is(err, unix.ENODEV) {
		known, _ := os.ReadFile("/proc/filesystems") // only to explain
		return fmt.Errorf("mount %s as %s: %w; the kernel knows %s", d.Device, d.FS, err,
			strings.Join(strings.Fields(string(known)), " "))
	}
	if err != nil {
		return fmt.Errorf("mount %s as %s on %s: %w", d.Device, d.FS, d.Mount, err)
	}
	return nil
}

func isBlockDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
}
