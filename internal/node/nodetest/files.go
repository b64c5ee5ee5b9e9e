package nodetest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
)

// rootMajor is the device number of the root file system.
const rootMajor = 8

func (m *Machine) mountTable() []filesystem.Mount {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]filesystem.Mount, len(m.mounts))
	for i, x := range m.mounts {
		out[i] = x.Mount
		out[i].Options = slices.Clone(x.Options)
	}
	return out
}

// top returns the index of the topmost mount at path, or -1.
func (m *Machine) top(path string) int {
	for i := len(m.mounts) - 1; i >= 0; i-- {
		if m.mounts[i].Path == path {
			return i
		}
	}
	return -1
}

func (m *Machine) byDevice(device string) (*disk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.disks[strings.TrimPrefix(device, "/dev/")]
	if d == nil || d.gone {
		return nil, fmt.Errorf("%s: %w", device, syscall.ENOENT)
	}
	if d.table != nil && d.table.below == nil {
		return nil, fmt.Errorf("%s has no table: %w", device, syscall.ENXIO)
	}
	return d, nil
}

// mode reads options as mount(8) does: the last word counts.
func mode(options []string) string {
	out := "rw"
	for _, o := range options {
		if o == "ro" || o == "rw" {
			out = o
		}
	}
	return out
}

func (m *Machine) mountDevice(device, path string, kind filesystem.Kind, options []string) error {
	d, err := m.byDevice(device)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o750); err != nil {
		return err
	}
	content, err := d.ns.Medium.Probe()
	if err != nil {
		return err
	}
	err = m.hang(d)
	defer m.mu.Unlock()
	switch {
	case err != nil:
		return err
	case d.fails():
		return fmt.Errorf("mount %s: %w", device, syscall.EIO)
	case len(m.above(d)) > 0:
		return fmt.Errorf("mount %s: a table has it: %w", device, syscall.EBUSY)
	case content.Kind != kind:
		return fmt.Errorf("mount %s: it holds %s: %w", device, content.Kind, syscall.EINVAL)
	}
	sb := m.supers[d.name]
	if sb == nil {
		sb = &super{kind: kind, disk: d}
		m.supers[d.name] = sb
	}
	m.mounts = append(m.mounts, mounted{filesystem.Mount{
		Path: path, Major: d.major, Minor: d.minor, Root: "/", FSType: string(kind), Source: device,
		Options: []string{mode(options), "relatime"},
	}, sb})
	return nil
}

func (m *Machine) bind(source, target string, readOnly bool) error {
	if _, err := os.Lstat(target); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	x := mounted{Mount: filesystem.Mount{Path: target, Major: rootMajor, Minor: 1, Root: source, FSType: "ext4", Source: "/dev/sda1", Options: []string{"rw"}}}
	name, isDevice := strings.CutPrefix(source, "/dev/")
	if i := m.top(source); i >= 0 {
		x = m.mounts[i]
		x.Path, x.Options = target, slices.Clone(x.Options)
	} else if isDevice && !strings.Contains(name, "/") {
		if d := m.disks[name]; d == nil || d.gone {
			return fmt.Errorf("bind %s: %w", source, syscall.ENOENT)
		}
		x.Mount = filesystem.Mount{Path: target, Major: 0, Minor: 5, Root: "/" + name, FSType: "devtmpfs", Source: "udev", Options: []string{"rw"}}
	}
	if readOnly {
		x.Options[0] = "ro"
	}
	m.mounts = append(m.mounts, x)
	return nil
}

// unmount is out of the table at once; the last one of a file system writes
// back, and hangs while there is no path.
func (m *Machine) unmount(path string) error {
	m.mu.Lock()
	i := m.top(path)
	if i < 0 {
		m.mu.Unlock()
		return nil
	}
	if m.busy[path] {
		m.mu.Unlock()
		return fmt.Errorf("unmount %s: %w", path, syscall.EBUSY)
	}
	sb := m.mounts[i].super
	m.mounts = slices.Delete(m.mounts, i, i+1)
	last := sb != nil && !slices.ContainsFunc(m.mounts, func(x mounted) bool { return x.super == sb })
	m.mu.Unlock()
	if !last {
		return nil
	}
	err := m.drain(sb.disk)
	defer m.mu.Unlock()
	if err != nil || slices.ContainsFunc(m.mounts, func(x mounted) bool { return x.super == sb }) {
		return err // mounted again meanwhile
	}
	if err := m.writeBack(sb.disk, &sb.dirty); err != nil && !errors.Is(err, syscall.EIO) {
		return err
	}
	delete(m.supers, sb.disk.name)
	m.forget(sb.disk)
	m.notify()
	return nil
}

// writeBack moves dirty to the medium, or to what is lost.
func (m *Machine) writeBack(d *disk, dirty *string) error {
	if d.fails() {
		m.lose(dirty)
		return fmt.Errorf("%s: %w", d.name, syscall.EIO)
	}
	text := *dirty
	*dirty = ""
	if text == "" {
		return nil
	}
	return d.ns.Medium.Store(text)
}

func (m *Machine) sync(path string) error {
	m.mu.Lock()
	i := m.top(path)
	var sb *super
	if i >= 0 {
		sb = m.mounts[i].super
	}
	m.mu.Unlock()
	if sb == nil {
		return nil
	}
	err := m.hang(sb.disk)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	return m.writeBack(sb.disk, &sb.dirty)
}

func (m *Machine) flushDevice(device string) error {
	d, err := m.byDevice(device)
	if err != nil {
		return err
	}
	err = m.hang(d)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	return m.writeBack(d, &d.dirty)
}

func (m *Machine) superblockGone(kind filesystem.Kind, name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	sb := m.supers[name]
	return sb == nil || sb.kind != kind
}

func (m *Machine) errorsOf(name string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if sb := m.supers[name]; sb != nil {
		return sb.errors
	}
	return 0
}

// Stop makes the file system mounted at path meet an error that it does not
// survive, on a disk that is well again. What it had not written is lost.
func (m *Machine) Stop(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.top(path); i >= 0 && m.mounts[i].super != nil {
		sb := m.mounts[i].super
		sb.errors++
		m.lose(&sb.dirty)
	}
}

func (m *Machine) stat(path string) (filesystem.Usage, error) {
	m.mu.Lock()
	i := m.top(path)
	var sb *super
	if i >= 0 {
		sb = m.mounts[i].super
	}
	m.mu.Unlock()
	if sb == nil {
		return filesystem.Usage{}, fmt.Errorf("statfs %s: %w", path, syscall.ENOENT)
	}
	err := m.hang(sb.disk)
	defer m.mu.Unlock()
	if err == nil && sb.disk.fails() {
		err = fmt.Errorf("statfs %s: %w", path, syscall.EIO)
	}
	size := sb.disk.ns.SizeBytes
	return filesystem.Usage{TotalBytes: size, UsedBytes: size / 4, AvailableBytes: size - size/4, TotalInodes: 100, UsedInodes: 10, AvailableInodes: 90}, err
}

// onDisk runs act on the medium of a device over a live path.
func (m *Machine) onDisk(device string, act func(Medium) error) error {
	d, err := m.byDevice(device)
	if err != nil {
		return err
	}
	err = m.hang(d)
	fails := d.fails()
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if fails {
		return fmt.Errorf("%s: %w", device, syscall.EIO)
	}
	return act(d.ns.Medium)
}

// Write is what a pod does: it writes to the file system or the device at path,
// and the kernel keeps it until somebody syncs.
func (m *Machine) Write(path, text string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.top(path)
	if i < 0 {
		return fmt.Errorf("write %s: nothing is mounted: %w", path, syscall.ENOENT)
	}
	x := m.mounts[i]
	if x.Options[0] == "ro" {
		return fmt.Errorf("write %s: %w", path, syscall.EROFS)
	}
	if x.super != nil {
		if x.super.disk.fails() || x.super.errors > 0 {
			return fmt.Errorf("write %s: %w", path, syscall.EIO)
		}
		x.super.dirty += text
		return nil
	}
	d := m.disks[strings.TrimPrefix(x.Root, "/")]
	if d == nil || d.gone {
		return fmt.Errorf("write %s: %w", path, syscall.ENXIO)
	}
	if d.fails() {
		return fmt.Errorf("write %s: %w", path, syscall.EIO)
	}
	d.dirty += text
	return nil
}
