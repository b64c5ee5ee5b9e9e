package initiatortest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Emit writes a recorded fixture to standard output as one line that
// testdata/README.md says how to unpack: nothing else leaves the machine that a
// kernel test runs in.
func Emit(name string, content []byte) {
	fmt.Printf("\n@@FIXTURE %s %s\n", name, base64.StdEncoding.EncodeToString(content))
}

// recorded are the parts of /sys that a recording holds.
var recorded = []string{
	"class/nvme", "class/nvme-subsystem", "devices/virtual/nvme-fabrics/ctl", "devices/virtual/nvme-subsystem",
	"module/nvme_core/parameters",
}

// skipped are directories that say nothing about NVMe.
var skipped = []string{"power", "mq", "integrity", "trace", "holders", "slaves", "bdi", "inflight"}

// RecordSysfs returns the NVMe part of /sys as it is now: an archive (tar.gz)
// with links as links.
func RecordSysfs() ([]byte, error) {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for _, part := range recorded {
		if err := recordDir(w, part); err != nil {
			return nil, err
		}
	}
	err := errors.Join(w.Close(), z.Close())
	return buf.Bytes(), err
}

func recordDir(w *tar.Writer, part string) error {
	err := filepath.WalkDir("/sys/"+part, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, "/sys/")
		switch {
		case d.IsDir() && slices.Contains(skipped, d.Name()):
			return fs.SkipDir
		case d.IsDir():
			return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755})
		case d.Type() == fs.ModeSymlink:
			return recordLink(w, path, name)
		case strings.Contains(name, "/queue/") && d.Name() != "logical_block_size":
			return nil
		default:
			return recordFile(w, path, name)
		}
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func recordLink(w *tar.Writer, path, name string) error {
	to, err := os.Readlink(path)
	if err != nil {
		return err
	}
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to})
}

// recordFile leaves out what cannot be read: control files, and attributes that
// need a live device.
func recordFile(w *tar.Writer, path, name string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(b))}); err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// Unpack lays an archive of RecordSysfs out under dir.
func Unpack(archive []byte, dir string) error {
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return err
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("%s: not a local path", h.Name)
		}
		if err := unpackOne(r, h, filepath.Join(dir, h.Name)); err != nil {
			return err
		}
	}
}

func unpackOne(r io.Reader, h *tar.Header, at string) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(at, 0o755)
	case tar.TypeSymlink:
		return os.Symlink(h.Linkname, at)
	default:
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return os.WriteFile(at, b, 0o600)
	}
}
