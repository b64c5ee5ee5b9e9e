package nvmesysfs

import (
	"bytes"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// rosterAge is how long what cannot be seen in a state is taken for unchanged.
const rosterAge = 30 * time.Second

// Roster is an FS for one who asks for the controllers several times a second:
// while the same controllers are there and all of them live, a look costs one
// read for each, and one for their directory. Settings that somebody changes on a
// live controller are seen half a minute later. It is for one goroutine.
type Roster struct {
	FS
	buffer [32 << 10]byte // for the names of a thousand controllers
	at     time.Time
	dir    int    // the open directory of controllers; -1 if there is none
	names  []byte // what was read there
	held   []int  // the open attribute "state" of each: it dies with its controller
	found  []Controller
}

// NewRoster returns a roster that has seen nothing yet.
func NewRoster(f FS) *Roster { return &Roster{FS: f, dir: -1} }

// Close forgets all.
func (r *Roster) Close() {
	for _, fd := range append(r.held, r.dir) {
		_ = unix.Close(fd)
	}
	r.at, r.dir, r.names, r.held, r.found = time.Time{}, -1, nil, nil, nil
}

// Controllers is FS.Controllers, and the very same list as before while nothing
// has changed. It is not to be changed.
func (r *Roster) Controllers() ([]Controller, error) {
	if time.Since(r.at) < rosterAge && bytes.Equal(r.entries(), r.names) && !slices.ContainsFunc(r.held, notLive) {
		return r.found, nil
	}
	return r.look()
}

// look opens before it reads: if a name passes to another controller in between,
// what is open is the dead one's, and the next look sees that. What was not live
// before it, or not at it, is looked at again.
func (r *Roster) look() ([]Controller, error) {
	r.Close()
	allLive := r.open() && !slices.ContainsFunc(r.held, notLive)
	found, err := r.FS.Controllers()
	if err != nil {
		return nil, err
	}
	if allLive && !slices.ContainsFunc(found, func(c Controller) bool { return !c.Live() }) {
		r.at, r.found = time.Now(), found
	}
	return found, nil
}

// open opens what the next look is at, and says whether it is all.
func (r *Roster) open() bool {
	dir, err := openAt(unix.AT_FDCWD, r.classDir(), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return false
	}
	r.dir = dir
	r.names = bytes.Clone(r.entries())
	_, _, names := unix.ParseDirent(r.names, -1, nil)
	for _, name := range names {
		fd, err := openAt(unix.AT_FDCWD, filepath.Join(r.classDir(), name, "state"), unix.O_RDONLY)
		if err != nil {
			return false
		}
		r.held = append(r.held, fd)
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
	r.at = time.Time{}
	return r.FS.WriteControl(controller, attr, value)
}

func notLive(fd int) bool {
	var b [32]byte
	n, err := unix.Pread(fd, b[:], 0)
	return err != nil || string(bytes.TrimSpace(b[:n])) != stateLive
}
