package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// hostPath is where programs are looked for: the search path, and where distributions keep those of the administrator.
func hostPath() []string {
	return append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin", "/usr/bin", "/bin")
}

// findTool returns the path of a program of the building machine.
func findTool(name string) (string, error) {
	for _, dir := range hostPath() {
		candidate := filepath.Join(dir, name)
		info, err := os.Stat(candidate)
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("program %s: %w", name, exec.ErrNotFound)
}

// Tool adds a program of the building machine with its libraries. A name that is a link to a program of another name, as
// mkfs.ext4 is to mke2fs, becomes such a link again.
func (a *Archive) Tool(name string) error {
	found, err := findTool(name)
	if err != nil {
		return err
	}
	file, err := filepath.EvalSymlinks(found)
	if err != nil {
		return err
	}
	dir := guestDir(found)
	target := filepath.Join(dir, filepath.Base(file))
	if name != filepath.Base(file) {
		a.Symlink(target, filepath.Join(dir, name))
	}
	if e, ok := a.entries[strings.TrimPrefix(target, "/")]; ok && e.from == file {
		return nil
	}
	a.File(file, target, 0o755)
	return a.Libraries(file)
}

// guestDir keeps the distinction of sbin, and nothing else, of where a program was found.
func guestDir(found string) string {
	if filepath.Base(filepath.Dir(found)) == "sbin" {
		return "/usr/sbin"
	}
	return "/usr/bin"
}

// Tools adds programs of which all must exist.
func (a *Archive) Tools(names ...string) error {
	var missing []error
	for _, name := range names {
		err := a.Tool(name)
		if errors.Is(err, exec.ErrNotFound) {
			missing = append(missing, err)
			continue
		}
		if err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("run hack/install-deps: %w", errors.Join(missing...))
	}
	return nil
}

// Libraries adds the shared libraries that a program needs, under the paths that they have on the building machine.
func (a *Archive) Libraries(file string) error {
	libs, err := neededBy(file)
	if errors.Is(err, errNotELF) || errors.Is(err, errStatic) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, lib := range libs {
		if a.Has(MergedUsr(lib)) {
			continue
		}
		real, err := filepath.EvalSymlinks(lib)
		if err != nil {
			return err
		}
		a.File(real, MergedUsr(lib), 0o755)
		if err := a.Libraries(real); err != nil {
			return err
		}
	}
	return nil
}

// MergedUsr moves /bin, /sbin, /lib and /lib64 to where the links of the image point: an archive cannot write through a
// link, it would replace it.
func MergedUsr(path string) string {
	for _, top := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(path, top) {
			return "/usr" + path
		}
	}
	return path
}

// Busybox adds busybox and a link for each of its applets that no other program provides.
func (a *Archive) Busybox() error {
	file, err := findTool("busybox")
	if err != nil {
		return fmt.Errorf("run hack/install-deps: %w", err)
	}
	if _, err := neededBy(file); !errors.Is(err, errNotELF) && !errors.Is(err, errStatic) {
		return fmt.Errorf("%s is not linked statically; install busybox-static (hack/install-deps does)", file)
	}
	out, err := exec.Command(file, "--list-full").Output()
	if err != nil {
		return fmt.Errorf("%s --list-full: %w", file, err)
	}
	a.File(file, "/usr/bin/busybox", 0o755)
	for _, applet := range strings.Fields(string(out)) {
		name := filepath.Base(applet)
		if a.Has("/usr/bin/"+name) || a.Has("/usr/sbin/"+name) {
			continue
		}
		a.Symlink("/usr/bin/busybox", filepath.Join(guestDir("/"+applet), name))
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
