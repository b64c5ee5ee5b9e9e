package nvmesysfs

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// rosterAge is how long what cannot be seen in a state is taken for unchanged.
const rosterAge = 30 * time.Second

// Roster is an FS for one who asks for the controllers several times a second:
// while the same controllers are there and all of them live, a look costs one
// read for each. Settings that somebody changes on a live controller are seen half
// a minute later. It is for one goroutine.
type Roster struct {
	FS
	at    time.Time
	names []string
	held  []int // the open attribute "state" of each: it dies with its controller
	found []Controller
}

// NewRoster returns a roster that has seen nothing yet.
func NewRoster(f FS) *Roster { return &Roster{FS: f} }

// Close forgets all.
func (r *Roster) Close() {
	for _, fd := range r.held {
		_ = unix.Close(fd)
	}
	r.names, r.held, r.found, r.at = nil, nil, nil, time.Time{}
}

// Controllers is FS.Controllers, and the very same list as before while nothing
// has changed. It is not to be changed.
func (r *Roster) Controllers() ([]Controller, error) {
	names, err := list(r.classDir())
	if err != nil {
		return nil, err
	}
	if time.Since(r.at) < rosterAge && slices.Equal(names, r.names) && !slices.ContainsFunc(r.held, notLive) {
		return r.found, nil
	}
	return r.look(names)
}

// look opens before it reads: if a name passes to another controller in between,
// what is open is the dead one's, and the next look sees that. What was not live
// before it, or not at it, is looked at again.
func (r *Roster) look(names []string) ([]Controller, error) {
	r.Close()
	for _, name := range names {
		if fd, err := openAt(unix.AT_FDCWD, filepath.Join(r.classDir(), name, "state"), unix.O_RDONLY); err == nil {
			r.held = append(r.held, fd)
		}
	}
	allLive := len(r.held) == len(names) && !slices.ContainsFunc(r.held, notLive)
	found, err := r.FS.Controllers()
	if err != nil {
		return nil, err
	}
	if allLive && !slices.ContainsFunc(found, func(c Controller) bool { return c.State != "live" }) {
		r.at, r.names, r.found = time.Now(), names, found
	}
	return found, nil
}

// WriteControl is FS.WriteControl; what it changes shows at the next look.
func (r *Roster) WriteControl(controller, attr, value string) error {
	r.at = time.Time{}
	return r.FS.WriteControl(controller, attr, value)
}

func notLive(fd int) bool {
	var b [32]byte
	n, err := unix.Pread(fd, b[:], 0)
	return err != nil || strings.TrimSpace(string(b[:max(n, 0)])) != "live"
}
