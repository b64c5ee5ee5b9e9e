package image

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
)

// read unpacks archives in the order in which the kernel would.
func read(t *testing.T, raw []byte) (names []string, content map[string]string, modes map[string]cpio.FileMode) {
	t.Helper()
	content, modes = make(map[string]string), make(map[string]cpio.FileMode)
	r := cpio.NewReader(bytes.NewReader(raw))
	for {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, content, modes
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, hdr.Name)
		content[hdr.Name] = string(body) + hdr.Linkname
		modes[hdr.Name] = hdr.Mode
	}
}

func write(t *testing.T, a *Archive) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := a.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchive(t *testing.T) {
	host := filepath.Join(t.TempDir(), "host")
	if err := os.WriteFile(host, []byte("from the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &Archive{}
	a.File(host, "/usr/local/bin/tool", 0o755)
	a.Bytes("/etc/empty", nil, 0o644)
	a.Bytes("/etc/hosts", []byte("odd"), 0o600)
	a.Symlink("usr/bin", "/bin")
	a.Dir("/tmp", 0o777)
	raw := write(t, a)
	names, content, modes := read(t, raw)
	seen := make(map[string]bool)
	for _, name := range names {
		if dir := filepath.Dir(name); dir != "." && !seen[dir] {
			t.Errorf("%s comes before its directory", name)
		}
		seen[name] = true
	}
	for name, want := range map[string]string{
		"usr/local/bin/tool": "from the host", "etc/empty": "", "etc/hosts": "odd", "bin": "usr/bin",
	} {
		if got, ok := content[name]; !ok || got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]cpio.FileMode{
		"usr/local/bin/tool": cpio.TypeReg | 0o755, "etc/hosts": cpio.TypeReg | 0o600, "bin": cpio.TypeSymlink | 0o777,
		"usr/local": cpio.TypeDir | 0o755, "tmp": cpio.TypeDir | 0o777,
	} {
		if modes[name] != want {
			t.Errorf("%s: mode %s, want %s", name, modes[name], want)
		}
	}
	if !bytes.Equal(raw, write(t, a)) {
		t.Error("the same archive is written differently the second time")
	}
}

func TestDigest(t *testing.T) {
	host := filepath.Join(t.TempDir(), "host")
	digest := func(content, name string, perm os.FileMode) string {
		if err := os.WriteFile(host, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		a := &Archive{}
		a.File(host, name, perm)
		d, err := a.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	base := digest("x", "/a", 0o644)
	if base != digest("x", "/a", 0o644) {
		t.Error("equal archives differ")
	}
	if base == digest("y", "/a", 0o644) || base == digest("x", "/b", 0o644) || base == digest("x", "/a", 0o600) {
		t.Error("different archives are equal")
	}
}

// TestTool copies this machine's own shell, whatever it is.
func TestTool(t *testing.T) {
	a := &Archive{}
	if err := a.Tools("sh"); err != nil {
		t.Fatal(err)
	}
	if !a.Has("/usr/bin/sh") {
		t.Error("no sh")
	}
	file, err := findTool("sh")
	if err != nil {
		t.Fatal(err)
	}
	libs, err := neededBy(file)
	if err != nil && !errors.Is(err, errStatic) {
		t.Fatal(err)
	}
	for _, lib := range libs {
		if !a.Has(MergedUsr(lib)) {
			t.Errorf("no %s", lib)
		}
	}
	err = a.Tools("sh", "no-such-tool-a", "no-such-tool-b")
	if err == nil || !strings.Contains(err.Error(), "no-such-tool-a") || !strings.Contains(err.Error(), "no-such-tool-b") ||
		!strings.Contains(err.Error(), "hack/install-deps") {
		t.Errorf("missing programs: %v", err)
	}
}

func TestMergedUsr(t *testing.T) {
	for path, want := range map[string]string{
		"/bin/x": "/usr/bin/x", "/lib64/ld.so": "/usr/lib64/ld.so", "/usr/bin/x": "/usr/bin/x", "/opt/bin/x": "/opt/bin/x",
		"/library/x": "/library/x",
	} {
		if got := MergedUsr(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestGuestModulePath(t *testing.T) {
	if got := GuestModulePath("6.12", "kernel/fs/xfs/xfs.ko.xz"); got != "/usr/lib/modules/6.12/kernel/fs/xfs/xfs.ko" {
		t.Error(got)
	}
}
