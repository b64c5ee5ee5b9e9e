package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

// keptBits are those of a mode that the image keeps.
const keptBits = fs.ModePerm | fs.ModeSticky

// Unpack puts what is in a tar archive, all of it root's; from is the package that it belongs to.
func (t *Tree) Unpack(r io.Reader, from string) error {
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read archive of %s: %w", from, err)
		}
		f, err := readFile(header, archive)
		if err != nil {
			return fmt.Errorf("read %s of %s: %w", header.Name, from, err)
		}
		f.From = from
		if err := t.Put(header.Name, f); err != nil {
			return fmt.Errorf("unpack %s: %w", from, err)
		}
	}
}

// readFile makes a hard link a symbolic one: one file stays one file.
func readFile(header *tar.Header, content io.Reader) (File, error) {
	switch header.Typeflag {
	case tar.TypeReg:
		data, err := io.ReadAll(content)
		return File{Mode: header.FileInfo().Mode() & keptBits, Data: data}, err
	case tar.TypeDir:
		return File{Mode: fs.ModeDir | header.FileInfo().Mode()&keptBits}, nil
	case tar.TypeSymlink:
		return File{Mode: fs.ModeSymlink | 0o777, Target: header.Linkname}, nil
	case tar.TypeLink:
		return File{Mode: fs.ModeSymlink | 0o777, Target: path.Clean("/" + header.Linkname)}, nil
	default:
		return File{}, fmt.Errorf("type %q is neither file, directory nor link", header.Typeflag)
	}
}

// WriteTar writes the tree as a tar archive, every file with the same time.
func (t *Tree) WriteTar(w io.Writer, when time.Time) error {
	archive := tar.NewWriter(w)
	for _, name := range t.Names() {
		f := t.files[name]
		if err := archive.WriteHeader(header(name, f, when)); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if _, err := archive.Write(f.Data); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

// header says what there is to say, and leaves the rest zero.
func header(name string, f File, when time.Time) *tar.Header {
	h := &tar.Header{
		Name: strings.TrimPrefix(name, "/"), Mode: int64(f.Mode.Perm()), ModTime: when,
		Uid: f.Owner, Gid: f.Owner, Typeflag: tar.TypeReg, Size: int64(len(f.Data)),
	}
	if f.Mode.IsDir() {
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	}
	if f.Mode.Type() == fs.ModeSymlink {
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Target
	}
	if f.Mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	return h
}
