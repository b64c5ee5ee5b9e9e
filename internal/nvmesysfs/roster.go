package nvmesysfs

import (
	"bytes"
	"errors"
	"io/fs"
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
	// A directory that was removed, with the module, looks like one without a
	// controller for ever.
	if names := r.entries(); len(r.members) == 0 || names == nil || !bytes.Equal(names, r.names) {
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
		if err := m.renew(r.FS); err != nil {
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

// enroll takes the names anew, and says whether it could. That who has one is still
// the same shows in its state; and who has one is still there, whatever the list
// says, which may leave out the neighbour of a name that goes in that moment.
func (r *Roster) enroll() bool {
	r.close()
	dir, err := openAt(unix.AT_FDCWD, r.classDir(), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return false
	}
	r.dir = dir
	if r.names = bytes.Clone(r.entries()); r.names == nil {
		return false
	}
	_, _, names := unix.ParseDirent(r.names, -1, nil)
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
		if !m.answers() {
			m.close()
			continue
		}
		r.members = append(r.members, m)
		r.names = []byte{} // the names are taken again at the next look
	}
	slices.SortFunc(r.members, func(a, b *member) int { return strings.Compare(a.name, b.name) })
	return true
}

// entries reads the open directory as the kernel shows it; nil if that cannot be
// done. It is good until the next call.
func (r *Roster) entries() []byte {
	if _, err := unix.Seek(r.dir, 0, unix.SEEK_SET); err != nil {
		return nil
	}
	all := 0
	for { // a signal ends a read of it early (filldir64)
		n, err := unix.ReadDirent(r.dir, r.buffer[all:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil // EINVAL: it does not fit
		}
		if n == 0 {
			return r.buffer[:all]
		}
		all += n
	}
}

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
	return m.read() == m.c.State
}

// answers says whether the controller is still there. The attribute of one that is
// gone cannot be read (ENODEV).
func (m *member) answers() bool { return m.read() != "" }

// read returns the state as it is now; "" if there is none.
func (m *member) read() string {
	var b [32]byte
	n, err := unix.Pread(m.state, b[:], 0)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b[:n]))
}

// renew opens before it reads: if the name passes to another controller in between,
// what is open is the dead one's, and the next look sees that. One that is gone, or
// belongs to no subsystem yet, is none.
func (m *member) renew(f FS) error {
	m.close()
	fd, err := openAt(unix.AT_FDCWD, filepath.Join(f.classDir(), m.name, "state"), unix.O_RDONLY)
	if err == nil {
		m.state = fd
		m.c, err = f.controller(m.name, m.c.Subsystem)
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

// controller reads one by its name. It was in subsystem before, if that is not "".
func (f FS) controller(name, subsystem string) (Controller, error) {
	subsystem, err := f.subsystemOf(name, subsystem)
	if err != nil {
		return Controller{}, err
	}
	nqn, err := attr(filepath.Join(f.subsystemDir(), subsystem), "subsysnqn")
	if err != nil {
		return Controller{}, err
	}
	return f.readController(name, subsystem, nqn)
}

// subsystemOf finds the subsystem that has a controller: most often that of before,
// or that with its number, which the kernel takes from the first controller
// (nvme_init_subsystem).
func (f FS) subsystemOf(controller, before string) (string, error) {
	for _, name := range []string{before, "nvme-subsys" + strings.TrimPrefix(controller, "nvme")} {
		if has, err := f.has(name, controller); has || err != nil {
			return name, err
		}
	}
	all, err := list(f.subsystemDir())
	if err != nil {
		return "", err
	}
	for _, name := range all {
		if has, err := f.has(name, controller); has || err != nil {
			return name, err
		}
	}
	return "", unix.ENODEV
}

func (f FS) has(subsystem, controller string) (bool, error) {
	if subsystem == "" {
		return false, nil
	}
	path := filepath.Join(f.subsystemDir(), subsystem, controller)
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	switch {
	case err == nil:
		return true, nil
	case gone(err):
		return false, nil
	default:
		return false, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
}
