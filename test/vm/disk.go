//go:build linux

package vm

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/holdfast-csi/holdfast/test/vm/internal/nbd"
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
	if !m.cfg.VolatileDisk {
		m.disk = rawDisk(path)
		return m.disk, nil
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(m.lab.cfg.Name + "/" + m.cfg.Name)) // cannot fail
	d, err := nbd.Open(path, h.Sum64())
	if err != nil {
		return nil, err
	}
	m.disk = &volatileDisk{disk: d, log: m.lab.cfg.Log, name: m.cfg.Name}
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

// volatileDisk is served by this process, which keeps what was not flushed in memory.
type volatileDisk struct {
	disk *nbd.Disk
	log  func(format string, args ...any)
	name string

	conn   *os.File
	served chan error // one result for each attach
}

// drainTimeout covers the server noticing that QEMU is gone.
const drainTimeout = 10 * time.Second

func (d *volatileDisk) attach() (*qemu.Disk, error) {
	ours, theirs, err := qemu.SocketPair("nbd")
	if err != nil {
		return nil, err
	}
	d.conn, d.served = ours, make(chan error, 1)
	go func(served chan<- error) { served <- nbd.Serve(ours, d.disk) }(d.served)
	return &qemu.Disk{NBD: theirs}, nil
}

// powerCut follows the end of QEMU.
func (d *volatileDisk) powerCut() error {
	if err := d.drain(); err != nil {
		return err
	}
	lost, err := d.disk.PowerCut()
	d.log("machine %s: the disk lost %d unflushed sectors", d.name, lost)
	return err
}

// drain waits until the server has ended, and so until nobody uses the disk.
func (d *volatileDisk) drain() error {
	if d.conn == nil {
		return nil
	}
	defer func() { d.conn = nil }()
	defer d.conn.Close()
	select {
	case err := <-d.served:
		if err != nil {
			d.log("machine %s: disk: %v", d.name, err) // QEMU was killed in the middle of a request
		}
		return nil
	case <-time.After(drainTimeout):
		return fmt.Errorf("disk of machine %s: the server is still busy %s after QEMU has ended", d.name, drainTimeout)
	}
}

func (d *volatileDisk) close() error {
	return errors.Join(d.drain(), d.disk.Close())
}
