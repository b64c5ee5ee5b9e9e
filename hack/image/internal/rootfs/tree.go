// Package rootfs holds the files of an image in memory, and writes them as a layer: the same bytes for the same files.
//
// It knows regular files, directories and symbolic links. Devices, set-user-ID bits and extended attributes it does not,
// because no image has any, nor the owners that packages give to files. It does not read the building machine's own
// files.
package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// File is a regular file, a directory, or a symbolic link.
type File struct {
	Mode   fs.FileMode // type, permissions and sticky bit
	Data   []byte      // of a regular file
	Target string      // of a symbolic link
	From   string      // the Debian package that brought it; "" if none did
	Owner  int         // user and group; root's if it is not set
}

// Tree is a file system in the making. The zero value has the root directory and is ready. Paths are absolute, and no
// path in it leads through a link: what is put below a link goes where the link points.
type Tree struct {
	files map[string]File
}

// maxLinks is how many symbolic links one path may lead through, as in Linux.
const maxLinks = 40

var (
	errLoop   = errors.New("too many symbolic links")
	errNotDir = errors.New("not a directory")
)

// Get returns what is at a path, without following a link in its last place; false if there is nothing.
func (t *Tree) Get(name string) (File, bool) {
	dir, _, err := t.Resolve(path.Dir(path.Clean("/" + name)))
	if err != nil {
		return File{}, false
	}
	return t.at(path.Join(dir, path.Base(name)))
}

// at takes a path that leads through no link.
func (t *Tree) at(name string) (File, bool) {
	if name == "/" {
		return File{Mode: fs.ModeDir | 0o755}, true
	}
	f, ok := t.files[name]
	return f, ok
}

// Names returns all paths but the root's, sorted: a directory comes before what is in it.
func (t *Tree) Names() []string {
	return slices.Sorted(maps.Keys(t.files))
}

// Resolve follows symbolic links as the kernel would if the tree were the root: nothing leads out of it. It returns
// the path at the end, which is no link, and those of the links on the way; fs.ErrNotExist if there is nothing.
func (t *Tree) Resolve(name string) (end string, links []string, err error) {
	end = "/"
	for rest := split(name); len(rest) > 0; {
		next := path.Join(end, rest[0])
		rest = rest[1:]
		f, ok := t.at(next)
		if !ok {
			return "", links, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		if f.Mode.Type() != fs.ModeSymlink {
			end = next
			continue
		}
		links = append(links, next)
		if len(links) > maxLinks {
			return "", links, fmt.Errorf("%s: %w", name, errLoop)
		}
		if path.IsAbs(f.Target) {
			end = "/"
		}
		rest = append(split(f.Target), rest...)
	}
	return end, links, nil
}

// split leaves .. alone: what it means depends on links before it.
func split(name string) []string {
	return strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
}

// Put adds a file; directories above it appear by themselves. Putting a directory where one is gives it the new mode.
// Anything else that is there already must be the same: that two packages have a file in common is a mistake.
func (t *Tree) Put(name string, f File) error {
	name = path.Clean("/" + name)
	if name == "/" {
		return nil
	}
	dir, err := t.makeDir(path.Dir(name))
	if err != nil {
		return err
	}
	name = path.Join(dir, path.Base(name))
	old, ok := t.files[name]
	if !ok {
		t.set(name, f)
		return nil
	}
	if f.Mode.IsDir() {
		return t.putDirectory(name, f)
	}
	if old.Mode != f.Mode || old.Owner != f.Owner || old.Target != f.Target || string(old.Data) != string(f.Data) {
		return fmt.Errorf("%s: there is one from %q, and another from %q", name, old.From, f.From)
	}
	return nil
}

func (t *Tree) set(name string, f File) {
	if t.files == nil {
		t.files = make(map[string]File)
	}
	t.files[name] = f
}

// putDirectory leaves a link to a directory a link, as dpkg does.
func (t *Tree) putDirectory(name string, f File) error {
	end, links, err := t.Resolve(name)
	if err != nil {
		return err
	}
	if there, _ := t.at(end); !there.Mode.IsDir() {
		return fmt.Errorf("%s: %w", end, errNotDir)
	}
	if len(links) == 0 {
		t.set(name, f)
	}
	return nil
}

// makeDir makes sure that there is a directory, and returns its path without links.
func (t *Tree) makeDir(name string) (string, error) {
	end, _, err := t.Resolve(name)
	if errors.Is(err, fs.ErrNotExist) {
		if _, dangling := t.Get(name); dangling {
			return "", err
		}
		parent, err := t.makeDir(path.Dir(name))
		if err != nil {
			return "", err
		}
		end = path.Join(parent, path.Base(name))
		t.set(end, File{Mode: fs.ModeDir | 0o755})
		return end, nil
	}
	if err != nil {
		return "", err
	}
	if f, _ := t.at(end); !f.Mode.IsDir() {
		return "", fmt.Errorf("%s: %w", end, errNotDir)
	}
	return end, nil
}

// Directory puts a directory.
func (t *Tree) Directory(name string, mode fs.FileMode) error {
	return t.Put(name, File{Mode: fs.ModeDir | mode})
}

// Link puts a symbolic link.
func (t *Tree) Link(target, name string) error {
	return t.Put(name, File{Mode: fs.ModeSymlink | 0o777, Target: target})
}

// Bytes puts a regular file.
func (t *Tree) Bytes(name string, data []byte, mode fs.FileMode) error {
	return t.Put(name, File{Mode: mode, Data: data})
}
