package image

import (
	"debug/elf"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

var (
	errNotELF = errors.New("not an ELF file")
	errStatic = errors.New("linked statically")
)

// libraryDirs are where the dynamic linker looks by default on the distributions we run on.
func libraryDirs() []string {
	return []string{
		"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib",
	}
}

// neededBy returns the paths of the libraries and of the interpreter that an ELF file names itself. Those that the
// libraries need in turn are the caller's business.
func neededBy(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		if _, ok := errors.AsType[*elf.FormatError](err); ok {
			return nil, fmt.Errorf("%s: %w", file, errNotELF)
		}
		return nil, err
	}
	defer f.Close()
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("libraries of %s: %w", file, err)
	}
	var paths []string
	if interp := interpreter(f); interp != "" {
		paths = append(paths, interp)
	}
	if len(paths)+len(names) == 0 {
		return nil, fmt.Errorf("%s: %w", file, errStatic)
	}
	dirs := append(runPath(f, filepath.Dir(file)), libraryDirs()...)
	for _, name := range names {
		lib, err := findLibrary(name, dirs)
		if err != nil {
			return nil, fmt.Errorf("%s needs %w", file, err)
		}
		paths = append(paths, lib)
	}
	return paths, nil
}

func interpreter(f *elf.File) string {
	for _, prog := range f.Progs {
		if prog.Type != elf.PT_INTERP {
			continue
		}
		buf := make([]byte, prog.Filesz)
		if _, err := prog.ReadAt(buf, 0); err != nil {
			return ""
		}
		return strings.TrimRight(string(buf), "\x00")
	}
	return ""
}

func runPath(f *elf.File, origin string) []string {
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		values, err := f.DynString(tag)
		if err != nil {
			continue // a file without a dynamic section has no such path
		}
		for _, value := range values {
			for _, dir := range filepath.SplitList(value) {
				dirs = append(dirs, strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin).Replace(dir))
			}
		}
	}
	return dirs
}

func findLibrary(name string, dirs []string) (string, error) {
	for _, dir := range dirs {
		if candidate := filepath.Join(dir, name); exists(candidate) {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("library %s, which is in none of %s", name, strings.Join(dirs, ", "))
}
