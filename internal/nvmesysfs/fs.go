package nvmesysfs

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
)

// FS is where sysfs and the device nodes are: both in one value, because what
// the one says is checked against the other.
type FS struct {
	Sys, Dev string
	stat     StatFunc    // nil means lstat(2)
	control  ControlFunc // nil means write(2)
}

// StatFunc says whether path is a block device, and its number.
type StatFunc func(path string) (block bool, major, minor uint32, err error)

// ControlFunc does what the kernel does when a control file is written.
type ControlFunc func(controller, attr, value string) error

// Default is the running kernel's.
func Default() FS { return FS{Sys: "/sys", Dev: "/dev"} }

// WithStat returns f with another way to look at device nodes: a tree made by a
// test without root has none.
func (f FS) WithStat(s StatFunc) FS {
	f.stat = s
	return f
}

// WithControl returns f with another receiver of control writes: a file in a
// tree made by a test does nothing by itself.
func (f FS) WithControl(c ControlFunc) FS {
	f.control = c
	return f
}

// Snapshot is what was there at one look. The look is not atomic: a state may
// have changed by the time the next one is read.
type Snapshot struct {
	Controllers []Controller
	Namespaces  []Namespace
}

// nvme1 is a controller, nvme0n1 a disk, and nvme0c1n1 the hidden path of disk
// nvme0n1 through nvme1: the first number is the subsystem's, and need not be
// that of any controller.
var (
	controllerName = regexp.MustCompile(`^nvme[0-9]+$`)
	diskName       = regexp.MustCompile(`^nvme[0-9]+n[0-9]+$`)
	pathName       = regexp.MustCompile(`^(nvme[0-9]+)c[0-9]+(n[0-9]+)$`)
)

func (f FS) classDir() string     { return filepath.Join(f.Sys, "class", "nvme") }
func (f FS) subsystemDir() string { return filepath.Join(f.Sys, "class", "nvme-subsystem") }

// Snapshot reads all fabrics controllers and their namespaces. A kernel without
// NVMe has none.
func (f FS) Snapshot() (Snapshot, error) {
	return f.look(anyNQN, readNamespace)
}

func anyNQN(string) bool { return true }

// Session reads the controllers and namespaces of one subsystem NQN. Any other
// subsystem costs one small read.
func (f FS) Session(nqn string) (Snapshot, error) {
	return f.look(named(nqn), readNamespace)
}

// SessionOf is Session with only the namespace of one NSID, which costs one small
// read for each other one; 0 is all of them.
func (f FS) SessionOf(nqn string, nsid uint32) (Snapshot, error) {
	if nsid == 0 {
		return f.Session(nqn)
	}
	return f.look(named(nqn), func(disk, dir string) (Namespace, error) {
		have, err := readNSID(dir)
		if err != nil || have != nsid {
			return Namespace{}, cmp.Or(err, errSkip)
		}
		return readNamespace(disk, dir)
	})
}

// SessionSince is Session for one who knows its subsystems (Controller.Subsystem),
// which spares a look at all others, without reading again those disks that are
// still there and that keep takes over from an earlier look. Which controllers have
// a path to a disk is always looked at.
func (f FS) SessionSince(nqn string, subsystems []string, keep func(disk string) (Namespace, bool)) (Snapshot, error) {
	return f.lookAt(subsystems, named(nqn), func(disk, dir string) (Namespace, error) {
		if ns, ok := keep(disk); ok {
			return ns, nil
		}
		return readNamespace(disk, dir)
	})
}

func named(nqn string) func(string) bool { return func(n string) bool { return n == nqn } }

// errSkip leaves a disk out of a look.
var errSkip = errors.New("not wanted")

// State reads the state of a controller (nvme0). The error of one that is not
// there wraps fs.ErrNotExist.
func (f FS) State(controller string) (string, error) {
	if !controllerName.MatchString(controller) {
		return "", fmt.Errorf("controller %q: not the name of a controller", controller)
	}
	return attr(filepath.Join(f.classDir(), controller), "state")
}

// Controllers reads all fabrics controllers and none of their namespaces, which
// are what a look costs.
func (f FS) Controllers() ([]Controller, error) {
	s, err := f.look(anyNQN, nil)
	return s.Controllers, err
}

// reading is how a look gets at one disk; nil leaves all out.
type reading func(disk, dir string) (Namespace, error)

// ControllersOf is Controllers for one subsystem NQN. Any other subsystem costs one
// small read.
func (f FS) ControllersOf(nqn string) ([]Controller, error) {
	s, err := f.look(named(nqn), nil)
	return s.Controllers, err
}

func (f FS) look(want func(nqn string) bool, disks reading) (Snapshot, error) {
	names, err := list(f.subsystemDir())
	if err != nil {
		return Snapshot{}, err
	}
	return f.lookAt(names, want, disks)
}

func (f FS) lookAt(subsystems []string, want func(nqn string) bool, disks reading) (Snapshot, error) {
	var all Snapshot
	for _, name := range subsystems {
		dir := filepath.Join(f.subsystemDir(), name)
		nqn, err := attr(dir, "subsysnqn")
		if gone(err) || err == nil && !want(nqn) {
			continue
		}
		if err != nil {
			return Snapshot{}, err
		}
		if err := f.readSubsystem(&all, name, nqn, disks); err != nil {
			return Snapshot{}, err
		}
	}
	return all, nil
}

// readSubsystem adds one subsystem to s. Heads hang under the subsystem when
// native multipath is on, and otherwise (or where the subsystem says that it
// can have one controller only) under their controller.
func (f FS) readSubsystem(s *Snapshot, subsystem, nqn string, read reading) error {
	dir := filepath.Join(f.subsystemDir(), subsystem)
	entries, err := list(dir)
	if err != nil {
		return err
	}
	disks := map[string]string{}   // disk to its directory
	paths := map[string][]string{} // disk to the controllers with a path to it
	for _, name := range entries {
		switch {
		case diskName.MatchString(name):
			disks[name] = filepath.Join(dir, name)
		case controllerName.MatchString(name):
			c, err := f.readController(name, subsystem, nqn)
			if gone(err) {
				continue
			}
			if err != nil {
				return err
			}
			if c.Transport == "pcie" {
				return nil // none of ours, and never shared with a fabrics controller
			}
			s.Controllers = append(s.Controllers, c)
			if read == nil {
				continue
			}
			if err := f.readPaths(name, disks, paths); err != nil {
				return err
			}
		}
	}
	if read == nil {
		return nil
	}
	return addNamespaces(s, nqn, disks, paths, read)
}

// readPaths notes what hangs under a controller: the hidden paths of heads, or
// disks of its own.
func (f FS) readPaths(controller string, disks map[string]string, paths map[string][]string) error {
	dir := filepath.Join(f.classDir(), controller)
	entries, err := list(dir)
	if err != nil {
		return err
	}
	for _, name := range entries {
		if diskName.MatchString(name) {
			disks[name] = filepath.Join(dir, name)
			paths[name] = append(paths[name], controller)
		} else if m := pathName.FindStringSubmatch(name); m != nil {
			head := m[1] + m[2]
			paths[head] = append(paths[head], controller)
		}
	}
	return nil
}
