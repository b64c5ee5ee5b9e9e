package nvmesysfs

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How long what cannot be seen in the state of a controller is taken for
// unchanged: while it is live, and while the kernel connects it.
const (
	liveAge = 30 * time.Second
	awayAge = time.Second
)

// Roster is an FS for one who asks for the controllers several times a second: a
// look costs one read for each, and one for their directory. More is read of those
// whose state has changed, or that are new, and of no other. Settings that
// somebody changes on a live controller are seen half a minute later, on another
// one a second later. It is for one goroutine.
type Roster struct {
	FS
	buffer  [32 << 10]byte // for the names of a thousand controllers
	dir     int            // the open directory of controllers; -1 if there is none
	names   []byte         // what was read there
	members []*member      // by name
	found   []Controller
}

// member is a name in the directory, and the controller that it was.
type member struct {
	name  string
	state int        // the open attribute of that name: it dies with its controller
	at    time.Time  // of the last full read; zero if it has to be read
	c     Controller // the zero Controller if it could not be read
}

// NewRoster returns a roster that has seen nothing yet.
func NewRoster(f FS) *Roster { return &Roster{FS: f, dir: -1} }

// Close forgets all.
func (r *Roster) Close() {
	for _, m := range r.members {
		m.close()
	}
	r.close()
	r.members, r.found = nil, nil
}

func (r *Roster) close() {
	_ = unix.Close(r.dir)
	r.dir, r.names = -1, nil
}

// Controllers is FS.Controllers in the order of their names, and the very same list
// as before while nothing has changed. It is not to be changed.
func (r *Roster) Controllers() ([]Controller, error) {
	changed := false
	if names := r.entries(); names == nil || !bytes.Equal(names, r.names) {
		if changed = true; !r.enroll() {
			r.Close()
			return r.FS.Controllers()
		}
	}
	for _, m := range r.members {
		if m.current() {
			continue
		}
		changed = true
		if err := m.read(r.FS); err != nil {
			return nil, err
		}
	}
	if changed {
		r.list()
	}
	return r.found, nil
}

// list makes the list anew, if it is another one.
func (r *Roster) list() {
	var found []Controller
	for _, m := range r.members {
		if m.c.Name != "" && m.c.Transport != "pcie" {
			found = append(found, m.c)
		}
	}
	if !slices.Equal(found, r.found) {
		r.found = found
	}
}

// enroll takes the names anew, and says whether it is all of them. That who has one
// is still the same shows in its state.
func (r *Roster) enroll() bool {
	r.close()
	dir, err := openAt(unix.AT_FDCWD, r.classDir(), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return false
	}
	r.dir = dir
	r.names = bytes.Clone(r.entries())
	_, _, names := unix.ParseDirent(r.names, -1, nil)
	slices.Sort(names)
	before := map[string]*member{}
	for _, m := range r.members {
		before[m.name] = m
	}
	r.members = nil
	for _, name := range names {
		if !controllerName.MatchString(name) {
			continue
		}
		m := before[name]
		if delete(before, name); m == nil {
			m = &member{name: name, state: -1}
		}
		r.members = append(r.members, m)
	}
	for _, m := range before {
		m.close()
	}
	return r.names != nil
}

// entries reads the open directory as the kernel shows it, in one piece; nil if
// that cannot be done. It is good until the next call.
func (r *Roster) entries() []byte {
	if _, err := unix.Seek(r.dir, 0, unix.SEEK_SET); err != nil {
		return nil
	}
	n, err := unix.ReadDirent(r.dir, r.buffer[:])
	if err != nil || n > len(r.buffer)-maxEntry {
		return nil
	}
	return r.buffer[:n]
}

// maxEntry is what one entry of a directory takes at most (getdents(2)): more than
// that was left of the buffer, so there is no further one.
const maxEntry = 19 + 256 + 8

// WriteControl is FS.WriteControl; what it changes shows at the next look.
func (r *Roster) WriteControl(controller, attr, value string) error {
	for _, m := range r.members {
		if m.name == controller {
			m.at = time.Time{}
		}
	}
	return r.FS.WriteControl(controller, attr, value)
}

// current says whether a member is as it was read.
func (m *member) current() bool {
	age := awayAge
	if m.c.Live() {
		age = liveAge
	}
	if m.at.IsZero() || time.Since(m.at) >= age {
		return false
	}
	var b [32]byte
	n, err := unix.Pread(m.state, b[:], 0)
	return err == nil && string(bytes.TrimSpace(b[:n])) == m.c.State
}

// read opens before it reads: if the name passes to another controller in between,
// what is open is the dead one's, and the next look sees that. One that is gone, or
// belongs to no subsystem yet, is none.
func (m *member) read(f FS) error {
	m.close()
	fd, err := openAt(unix.AT_FDCWD, filepath.Join(f.classDir(), m.name, "state"), unix.O_RDONLY)
	if err == nil {
		m.state = fd
		m.c, err = f.controller(m.name)
	}
	if err == nil {
		m.at = time.Now()
		return nil
	}
	m.c = Controller{}
	if gone(err) {
		err = nil
	}
	return err
}

func (m *member) close() {
	_ = unix.Close(m.state)
	m.state, m.at = -1, time.Time{}
}

// controller reads one by its name.
func (f FS) controller(name string) (Controller, error) {
	subsystem, err := f.subsystemOf(name)
	if err != nil {
		return Controller{}, err
	}
	nqn, err := attr(filepath.Join(f.subsystemDir(), subsystem), "subsysnqn")
	if err != nil {
		return Controller{}, err
	}
	return f.readController(name, subsystem, nqn)
}

// subsystemOf finds the subsystem that has a controller: most often that with its
// number, which the kernel takes from the first controller (nvme_init_subsystem).
func (f FS) subsystemOf(controller string) (string, error) {
	first := "nvme-subsys" + strings.TrimPrefix(controller, "nvme")
	if f.has(first, controller) {
		return first, nil
	}
	all, err := list(f.subsystemDir())
	if err != nil {
		return "", err
	}
	for _, name := range all {
		if f.has(name, controller) {
			return name, nil
		}
	}
	return "", unix.ENODEV
}

func (f FS) has(subsystem, controller string) bool {
	var st unix.Stat_t
	return unix.Lstat(filepath.Join(f.subsystemDir(), subsystem, controller), &st) == nil
}
