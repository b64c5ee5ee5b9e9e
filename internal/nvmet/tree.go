package nvmet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// configfsMagic is CONFIGFS_MAGIC of the kernel's linux/magic.h.
const configfsMagic = 0x62656570

// DefaultRoot is where the target's tree is on every distribution known.
const DefaultRoot = "/sys/kernel/config/nvmet"

// Tree is the part of a file system this package needs. Paths are relative to
// the target's directory, with forward slashes. Errors must carry the errno
// (errors.Is(err, syscall.EBUSY) and the like must work).
type Tree interface {
	Mkdir(p string) error
	Rmdir(p string) error
	// ReadFile returns the attribute as the kernel prints it, newline included.
	ReadFile(p string) (string, error)
	// WriteFile hands text to the kernel in one write.
	WriteFile(p, text string) error
	// ReadDir returns the names in a directory: objects, links and attributes.
	ReadDir(p string) ([]string, error)
	// Symlink makes p a link to target, which is also relative to the root.
	Symlink(target, p string) error
	Unlink(p string) error
}

// ConfigFS is the Tree of the running kernel.
type ConfigFS struct {
	root string
}

var _ Tree = ConfigFS{}

// NewConfigFS returns the Tree below root, usually DefaultRoot.
func NewConfigFS(root string) ConfigFS {
	return ConfigFS{root: root}
}

func (c ConfigFS) abs(p string) string { return filepath.Join(c.root, p) }

// Mkdir creates an object.
func (c ConfigFS) Mkdir(p string) error { return os.Mkdir(c.abs(p), 0o755) }

// Rmdir removes an object. os.Remove is not used: it would try unlink first
// and could report that error instead.
func (c ConfigFS) Rmdir(p string) error {
	return c.call("rmdir", p, syscall.Rmdir)
}

// Unlink removes a link.
func (c ConfigFS) Unlink(p string) error {
	return c.call("unlink", p, syscall.Unlink)
}

// ReadFile reads an attribute.
func (c ConfigFS) ReadFile(p string) (string, error) {
	b, err := os.ReadFile(c.abs(p))
	return string(b), err
}

// WriteFile writes an attribute. The kernel acts on it within write(2), so that
// is where a refusal shows, and where a slow one blocks.
func (c ConfigFS) WriteFile(p, text string) error {
	f, err := os.OpenFile(c.abs(p), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// ReadDir lists names in byte order.
func (c ConfigFS) ReadDir(p string) ([]string, error) {
	entries, err := os.ReadDir(c.abs(p))
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Symlink links p to target. configfs resolves the target when the link is
// made, and relative to the working directory of the process, so it is passed
// as an absolute path.
func (c ConfigFS) Symlink(target, p string) error {
	return os.Symlink(c.abs(target), c.abs(p))
}

func (c ConfigFS) call(op, p string, f func(string) error) error {
	for {
		err := f(c.abs(p))
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: op, Path: c.abs(p), Err: err}
		}
		return nil
	}
}

// Ready reports whether the target's tree below root can be used. The error
// says what has to be loaded or mounted and wraps volume.ErrPrecondition.
// The TCP transport is not probed: the kernel loads nvmet-tcp by itself when
// the first port of that type gets a link.
func Ready(root string) error {
	parent := filepath.Dir(root)
	var st unix.Statfs_t
	if err := unix.Statfs(parent, &st); err != nil {
		return fmt.Errorf("%w: configfs is not mounted at %s (modules configfs, nvmet, nvmet-tcp): %w",
			volume.ErrPrecondition, parent, err)
	}
	if st.Type != configfsMagic {
		return fmt.Errorf("%w: %s is not a configfs: mount it, and load modules nvmet and nvmet-tcp",
			volume.ErrPrecondition, parent)
	}
	for _, dir := range []string{"subsystems", "ports", "hosts"} {
		if _, err := os.Stat(filepath.Join(root, dir)); err != nil {
			return fmt.Errorf("%w: kernel modules nvmet and nvmet-tcp are not loaded: %w",
				volume.ErrPrecondition, err)
		}
	}
	return nil
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// value strips what the kernel adds when it prints an attribute; an attribute
// that was never set is printed as "(null)" by some of them.
func value(text string) string {
	text = strings.TrimRight(text, "\n")
	if text == "(null)" {
		return ""
	}
	return text
}
