package ownership

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// DefaultDir is where libnvme has the registry.
	DefaultDir = "/run/nvme/registry"
	// Owner is what our entries say.
	Owner = "holdfast"

	ownerFile  = "owner"
	seqnumFile = "seqnum"
	// hidden begins the names of what is being built or thrown away; readers skip
	// what begins with a dot. A crash may leave some.
	hidden = ".holdfast-"
)

var controllerName = regexp.MustCompile(`^nvme[0-9]+$`)

// Registry is the registry of this machine.
type Registry struct {
	dir, seqnum string
	log         *slog.Logger

	mu     sync.Mutex // one change at a time: what is swept must not be what was just claimed
	failed bool       // the last change did, and it was said; guarded by mu
}

// New returns the registry at dir; sys is "/sys". The directory is made with the
// first entry, also where no libnvme is installed yet.
func New(dir, sys string, log *slog.Logger) *Registry {
	return &Registry{dir: dir, seqnum: filepath.Join(sys, "kernel", "uevent_seqnum"), log: log}
}

// Claim writes the entry of a controller that we have just made. An entry that
// was there is one of an earlier controller of that name, whoever's it was.
func (r *Registry) Claim(controller string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(r.write(controller))
}

// Keep makes the entries true. Look says of each controller of the machine
// whether it is ours. One of ours without an entry gets one, one that somebody
// has given another owner keeps that; and entries of ours whose controller is
// gone, or another's by now, are removed.
func (r *Registry) Keep(look func() (map[string]bool, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(r.keep(look))
}

// note says once that the registry cannot be written.
func (r *Registry) note(err error) {
	if err != nil && !r.failed {
		r.log.Warn("other tools cannot be told which connections are ours: nvme disconnect-all may take them down, and they are connected again", "err", err)
	}
	r.failed = err != nil
}

func (r *Registry) keep(look func() (map[string]bool, error)) error {
	entries, err := r.entries() // before the look: what is made after it is not in here
	if err != nil {
		return err
	}
	ours, err := look()
	if err != nil {
		return err
	}
	var errs []error
	for controller, owner := range entries {
		if owner == Owner && !ours[controller] {
			errs = append(errs, r.remove(controller))
		}
	}
	for controller, is := range ours {
		if _, there := entries[controller]; is && !there {
			errs = append(errs, r.write(controller))
		}
	}
	return errors.Join(errs...)
}

// entries returns the owner of each entry, and clears away what a crash left of
// ours. An entry without an owner is one all the same.
func (r *Registry) entries() (map[string]string, error) {
	list, err := os.ReadDir(r.dir)
	if errors.Is(err, os.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, e := range list {
		switch name := e.Name(); {
		case strings.HasPrefix(name, hidden):
			err = errors.Join(err, os.RemoveAll(filepath.Join(r.dir, name)))
		case controllerName.MatchString(name):
			out[name] = r.owner(name)
		}
	}
	return out, err
}

// owner is "" for an entry that has none, or that was removed meanwhile.
func (r *Registry) owner(controller string) string {
	b, err := os.ReadFile(filepath.Join(r.dir, controller, ownerFile))
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b), "\r\n")
}

// write builds the entry beside its place and renames it in: the udev rule of
// libnvme would remove one that has no seqnum yet.
func (r *Registry) write(controller string) (err error) {
	if !controllerName.MatchString(controller) {
		return fmt.Errorf("registry: controller %q: not the name of a controller", controller)
	}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	made, err := os.MkdirTemp(r.dir, hidden+controller+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(made)) }()
	if err := os.Chmod(made, 0o755); err != nil {
		return err
	}
	if err := r.fill(made); err != nil {
		return err
	}
	place := filepath.Join(r.dir, controller)
	// The rule may look at any moment: an entry that is replaced is never absent.
	err = unix.Renameat2(unix.AT_FDCWD, made, unix.AT_FDCWD, place, unix.RENAME_EXCHANGE)
	if errors.Is(err, os.ErrNotExist) {
		err = os.Rename(made, place)
	}
	return err
}

// fill writes what libnvme would: the value and a newline. The number of the last
// uevent tells a removal of this controller from a late one of another that had
// its name. Without a number there is still the owner.
func (r *Registry) fill(dir string) error {
	if seqnum, err := os.ReadFile(r.seqnum); err == nil {
		if err := writeFile(filepath.Join(dir, seqnumFile), strings.TrimSpace(string(seqnum))); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(dir, ownerFile), Owner)
}

// writeFile makes a file that everybody may read, whatever the umask is.
func writeFile(path, value string) error {
	if err := os.WriteFile(path, []byte(value+"\n"), 0o600); err != nil {
		return err
	}
	return os.Chmod(path, 0o644)
}

// remove takes an entry away in one step, and then apart. None is no error.
func (r *Registry) remove(controller string) error {
	grave, err := os.MkdirTemp(r.dir, hidden+"gone-")
	if err != nil {
		return err
	}
	err = os.Rename(filepath.Join(r.dir, controller), filepath.Join(grave, controller))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(grave))
}
