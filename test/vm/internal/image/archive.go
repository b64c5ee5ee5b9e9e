// Package image builds root file systems for virtual machines as uncompressed cpio archives, which the kernel unpacks
// into memory. Uncompressed, because under emulation decompressing costs more than copying.
//
// It copies programs of the building machine with the libraries that they name; what a program only opens at run time it
// does not find out.
package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// Archive is a root file system in the making. The zero value is empty and ready.
type Archive struct {
	entries map[string]entry
}

// entry is a directory, a file by content or by the path it is copied from, or a link whose content is its target.
type entry struct {
	mode cpio.FileMode
	from string
	data []byte
}

func (a *Archive) add(name string, e entry) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if a.entries == nil {
		a.entries = make(map[string]entry)
	}
	if name == "." || name == "" {
		return
	}
	if _, ok := a.entries[path.Dir(name)]; !ok {
		a.add(path.Dir(name), entry{mode: cpio.TypeDir | 0o755})
	}
	a.entries[name] = e
}

// Dir adds a directory; parents appear by themselves.
func (a *Archive) Dir(name string, perm os.FileMode) {
	a.add(name, entry{mode: cpio.TypeDir | cpio.FileMode(perm.Perm())})
}

// Symlink adds a symbolic link.
func (a *Archive) Symlink(target, name string) {
	a.add(name, entry{mode: cpio.TypeSymlink | 0o777, data: []byte(target)})
}

// Bytes adds a file with the given content.
func (a *Archive) Bytes(name string, data []byte, perm os.FileMode) {
	a.add(name, entry{mode: cpio.TypeReg | cpio.FileMode(perm.Perm()), data: data})
}

// File adds a copy of a file of the building machine, read when the archive is written.
func (a *Archive) File(from, name string, perm os.FileMode) {
	a.add(name, entry{mode: cpio.TypeReg | cpio.FileMode(perm.Perm()), from: from})
}

// Has tells whether there is an entry of that name.
func (a *Archive) Has(name string) bool {
	_, ok := a.entries[strings.TrimPrefix(path.Clean(name), "/")]
	return ok
}

// names sorts, so that a directory comes before what is in it and equal archives are written equally.
func (a *Archive) names() []string {
	names := make([]string, 0, len(a.entries))
	for name := range a.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Digest identifies the content, file contents included.
func (a *Archive) Digest() (string, error) {
	h := sha256.New()
	for _, name := range a.names() {
		e := a.entries[name]
		fmt.Fprintf(h, "%s\x00%o\x00%d\x00", name, e.mode, len(e.data))
		h.Write(e.data)
		if e.from == "" {
			continue
		}
		f, err := os.Open(e.from)
		if err != nil {
			return "", err
		}
		n, err := io.Copy(h, f)
		f.Close()
		if err != nil {
			return "", fmt.Errorf("read %s: %w", e.from, err)
		}
		fmt.Fprintf(h, "\x00%d\x00", n)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Write writes the archive. Archives written one after the other make one root file system; later ones win.
func (a *Archive) Write(w io.Writer) error {
	cw := cpio.NewWriter(w)
	for _, name := range a.names() {
		if err := writeEntry(cw, name, a.entries[name]); err != nil {
			return fmt.Errorf("archive %s: %w", name, err)
		}
	}
	if err := cw.Close(); err != nil {
		return fmt.Errorf("close archive: %w", err)
	}
	return nil
}

func writeEntry(cw *cpio.Writer, name string, e entry) error {
	hdr := &cpio.Header{Name: name, Mode: e.mode, Size: int64(len(e.data)), Links: 1}
	if e.from == "" {
		if err := cw.WriteHeader(hdr); err != nil {
			return err
		}
		if len(e.data) == 0 {
			return nil
		}
		_, err := cw.Write(e.data)
		return err
	}
	f, err := os.Open(e.from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	hdr.Size = info.Size()
	if err := cw.WriteHeader(hdr); err != nil {
		return err
	}
	_, err = io.CopyN(cw, f, hdr.Size)
	return err
}
