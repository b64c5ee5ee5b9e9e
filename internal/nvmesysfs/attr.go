package nvmesysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxAttr is what one attribute can hold: the kernel gives it a page.
const maxAttr = 4096

// gone: the object was deleted before or during the read.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// list returns the names in a directory, sorted; none if it is gone.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !gone(err) {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// attr reads one attribute.
func attr(dir, name string) (string, error) {
	return attrAt(unix.AT_FDCWD, filepath.Join(dir, name))
}

// attrAt reads an attribute with one read(2), as the kernel made it, without the
// newline. os.ReadFile is not used: attributes can be polled, and it would put
// every one of them into the runtime's poller.
func attrAt(dir int, path string) (string, error) {
	fd, err := openAt(dir, path, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	var buf [maxAttr]byte
	for {
		n, err := unix.Read(fd, buf[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return "", &fs.PathError{Op: "read", Path: path, Err: err}
		}
		return strings.TrimSpace(string(buf[:n])), nil
	}
}

// write hands value to an attribute in one write(2): the kernel acts on each
// write, so a second one for the rest would be a second order.
func write(path, value string) error {
	fd, err := openAt(unix.AT_FDCWD, path, unix.O_WRONLY|unix.O_TRUNC)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // sysfs answers the write, not the close
	n, err := unix.Write(fd, []byte(value))
	if err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	if n != len(value) {
		return &fs.PathError{Op: "write", Path: path, Err: fmt.Errorf("the kernel took %d of %d bytes", n, len(value))}
	}
	return nil
}

func openAt(dir int, path string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, path, flags|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// reader reads several attributes of one object and keeps the first error. It
// holds the object's directory, so that a name that passes to another object
// meanwhile cannot mix the two.
//
// When an object goes, its attributes go one after the other, in the order of
// the kernel's table. An optional attribute that was missing was therefore never
// there if one that all objects have, and that stands before it in the table, is
// read successfully afterwards.
type reader struct {
	dir string
	fd  int
	err error
}

func newReader(dir string) *reader {
	fd, err := openAt(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY)
	return &reader{dir: dir, fd: fd, err: err}
}

func (r *reader) close() {
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
	}
}

func (r *reader) text(name string) string {
	if r.err != nil {
		return ""
	}
	v, err := attrAt(r.fd, name)
	if err != nil {
		r.err = fmt.Errorf("%s: %w", r.dir, err)
	}
	return v
}

// optional is text for an attribute that not every kernel, transport or
// namespace has: "" if it is not there.
func (r *reader) optional(name string) string {
	if r.err != nil {
		return ""
	}
	v := r.text(name)
	if gone(r.err) {
		r.err = nil
	}
	return v
}

// number reads a decimal number of at most bits bits. The kernel prints NSIDs
// as signed: a negative number of 32 bits is taken for what it was meant as.
func (r *reader) number(name string, bits int) int64 {
	v := r.text(name)
	if r.err != nil {
		return 0
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err == nil && n < 0 && bits == 32 && n >= -1<<31 {
		n += 1 << 32
	}
	if err == nil && (n < 0 || bits < 63 && n >= 1<<bits) {
		err = strconv.ErrRange
	}
	if err != nil {
		r.err = fmt.Errorf("%s: %q: %w", filepath.Join(r.dir, name), v, err)
		return 0
	}
	return n
}
