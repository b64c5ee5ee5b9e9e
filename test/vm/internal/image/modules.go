package image

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// GuestModulePath is where a module of the package is in the machine: the same place, decompressed.
func GuestModulePath(release, path string) string {
	return filepath.Join("/usr/lib/modules", release, PlainModule(path))
}

// PlainModule strips the compression suffix off a module's path.
func PlainModule(path string) string {
	for _, suffix := range []string{".xz", ".zst", ".gz"} {
		path = strings.TrimSuffix(path, suffix)
	}
	return path
}

// StageModules copies modules, decompressed, to a directory tree as depmod expects it, with the files that depmod reads.
// The module loaders in the machine then need no decompression and the kernel's signature check sees the original.
func StageModules(moduleDir, stage, release string, paths []string) error {
	target := filepath.Join(stage, "lib", "modules", release)
	for _, path := range append(paths, "modules.builtin", "modules.builtin.modinfo", "modules.order") {
		from := filepath.Join(moduleDir, path)
		to := filepath.Join(target, PlainModule(path))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := decompress(from, to); err != nil {
			return fmt.Errorf("copy module %s: %w", path, err)
		}
	}
	return nil
}

func decompress(from, to string) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	program := ""
	switch filepath.Ext(from) {
	case ".xz":
		program = "xz"
	case ".zst":
		program = "zstd"
	case ".gz":
		program = "gzip"
	default:
		return copyFile(from, out)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(program, "-dc", from)
	cmd.Stdout, cmd.Stderr = out, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, stderr.String())
	}
	return out.Close()
}

func copyFile(from string, out *os.File) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

// Tree adds a directory of the building machine with all regular files below it.
func (a *Archive) Tree(from, name string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		a.File(path, filepath.Join(name, rel), 0o644)
		return nil
	})
}
