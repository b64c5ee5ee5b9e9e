//go:build linux

package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/holdfast-csi/holdfast/test/vm/internal/qemu"
)

// disk is what a data disk does when the machine is switched on and off.
type disk interface {
	attach() (*qemu.Disk, error)
	powerCut() error
	close() error
}

// openDisk returns the machine's disk, made and formatted at the first call; nil if there is none.
func (m *Machine) openDisk() (disk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.disk != nil || m.cfg.DiskGiB == 0 {
		return m.disk, nil
	}
	path := filepath.Join(m.dir, "data.img")
	if err := makeImage(path, int64(m.cfg.DiskGiB)<<30, m.cfg.DiskFS); err != nil {
		return nil, err
	}
	m.disk = rawDisk(path)
	return m.disk, nil
}

// makeImage makes a sparse file with a file system in it. It is formatted here and not in the machine because here it
// takes milliseconds.
func makeImage(path string, size int64, fs string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	var argv []string
	switch fs {
	case "":
		return nil
	case "ext4":
		argv = []string{"mkfs.ext4", "-q", "-F", path}
	default:
		argv = []string{"mkfs." + fs, "-q", "-f", path}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, out)
	}
	return nil
}

// rawDisk is a file that QEMU writes itself. What QEMU has written stays when it is killed, flushed or not.
type rawDisk string

func (d rawDisk) attach() (*qemu.Disk, error) { return &qemu.Disk{File: string(d)}, nil }
func (rawDisk) powerCut() error               { return nil }
func (rawDisk) close() error                  { return nil } // the lab removes its directory
