package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// merged is what Debian's root looks like, as far as links go.
func merged(t *testing.T) *Tree {
	tr := &Tree{}
	must(t,
		tr.Directory("/usr/lib", 0o755), tr.Link("usr/lib", "/lib"),
		tr.Bytes("/lib/x86/libc.so.6.1", []byte("c"), 0o644), // lands below /usr
		tr.Link("libc.so.6.1", "/usr/lib/x86/libc.so.6"),
		tr.Link("/lib/x86/libc.so.6", "/usr/lib/ld.so"),
		tr.Link("../../../../../../usr/lib", "/usr/lib/up"),
		tr.Link("b", "/usr/a"), tr.Link("a", "/usr/b"),
		tr.Link("nowhere", "/usr/dangling"),
	)
	return tr
}

func TestResolve(t *testing.T) {
	tr := merged(t)
	for name, c := range map[string]struct {
		end   string
		links []string
		err   error
	}{
		"/":                             {end: "/"},
		"/usr/lib/x86/libc.so.6.1":      {end: "/usr/lib/x86/libc.so.6.1"},
		"/lib/x86/libc.so.6":            {end: "/usr/lib/x86/libc.so.6.1", links: []string{"/lib", "/usr/lib/x86/libc.so.6"}},
		"/lib/ld.so":                    {end: "/usr/lib/x86/libc.so.6.1", links: []string{"/lib", "/usr/lib/ld.so", "/lib", "/usr/lib/x86/libc.so.6"}},
		"/usr/lib/up/x86":               {end: "/usr/lib/x86", links: []string{"/usr/lib/up"}},
		"/lib/../lib/x86":               {end: "/usr/lib/x86", links: []string{"/lib"}}, // .. is /usr, not /
		"../../lib/x86/libc.so.6.1":     {end: "/usr/lib/x86/libc.so.6.1", links: []string{"/lib"}},
		"/usr/a":                        {err: errLoop},
		"/usr/dangling":                 {err: fs.ErrNotExist},
		"/usr/lib/x86/libc.so.6.1/file": {err: fs.ErrNotExist},
	} {
		end, links, err := tr.Resolve(name)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: error %v, want %v", name, err, c.err)
			continue
		}
		if err == nil && (end != c.end || !slices.Equal(links, c.links)) {
			t.Errorf("%s: %s through %q, want %s through %q", name, end, links, c.end, c.links)
		}
	}
}

func TestPutRefuses(t *testing.T) {
	for name, put := range map[string]func(*Tree) error{
		"another content":         func(tr *Tree) error { return tr.Bytes("/usr/lib/x86/libc.so.6.1", []byte("d"), 0o644) },
		"another target":          func(tr *Tree) error { return tr.Link("elsewhere", "/lib") },
		"a file for a directory":  func(tr *Tree) error { return tr.Bytes("/usr/lib", nil, 0o644) },
		"a directory for a file":  func(tr *Tree) error { return tr.Directory("/usr/lib/x86/libc.so.6.1", 0o755) },
		"below a file":            func(tr *Tree) error { return tr.Bytes("/usr/lib/x86/libc.so.6.1/x", nil, 0o644) },
		"below a link in a ring":  func(tr *Tree) error { return tr.Bytes("/usr/a/x", nil, 0o644) },
		"below a link to nowhere": func(tr *Tree) error { return tr.Bytes("/usr/dangling/x", nil, 0o644) },
	} {
		tr := merged(t)
		before := tr.Names()
		if err := put(tr); err == nil {
			t.Errorf("%s: was put", name)
		}
		if !slices.Equal(before, tr.Names()) {
			t.Errorf("%s: the tree has changed", name)
		}
	}
	tr := merged(t)
	must(t, tr.Bytes("/lib/x86/libc.so.6.1", []byte("c"), 0o644), tr.Directory("/lib", 0o755)) // the same again
	if f, _ := tr.Get("/lib"); f.Target != "usr/lib" {
		t.Errorf("/lib is %+v", f)
	}
}

// archive writes entries as they are, also such that no decent tool would write.
func archive(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := []byte("content")
		if h.Typeflag != tar.TypeReg {
			content = nil
		}
		h.Size = int64(len(content))
		must(t, w.WriteHeader(&h))
		_, err := w.Write(content)
		must(t, err)
	}
	must(t, w.Close())
	return &b
}

func TestUnpack(t *testing.T) {
	tr := &Tree{}
	must(t, tr.Directory("/usr/sbin", 0o755), tr.Link("usr/sbin", "/sbin"))
	must(t, tr.Unpack(archive(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./sbin/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./sbin/mke2fs", Typeflag: tar.TypeReg, Mode: 0o4755},
		tar.Header{Name: "./sbin/mkfs.ext4", Typeflag: tar.TypeLink, Linkname: "./sbin/mke2fs"},
		tar.Header{Name: "./sbin/mkfs.ext3", Typeflag: tar.TypeSymlink, Linkname: "mke2fs"},
		tar.Header{Name: "./tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		tar.Header{Name: "../../outside", Typeflag: tar.TypeReg, Mode: 0o644},
	), "e2fsprogs"))
	want := []string{"/outside", "/sbin", "/tmp", "/usr", "/usr/sbin", "/usr/sbin/mke2fs", "/usr/sbin/mkfs.ext3", "/usr/sbin/mkfs.ext4"}
	if got := tr.Names(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	f, _ := tr.Get("/sbin/mke2fs")
	if f.Mode != 0o755 || string(f.Data) != "content" || f.From != "e2fsprogs" {
		t.Errorf("mke2fs is %+v", f)
	}
	if end, _, err := tr.Resolve("/sbin/mkfs.ext4"); end != "/usr/sbin/mke2fs" {
		t.Errorf("mkfs.ext4 leads to %q, %v", end, err)
	}
	if f, _ := tr.Get("/tmp"); f.Mode != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("/tmp has mode %s", f.Mode)
	}
}

func TestUnpackRefuses(t *testing.T) {
	device := archive(t, tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar})
	if err := (&Tree{}).Unpack(device, "odd"); err == nil || !strings.Contains(err.Error(), "./dev/null of odd") {
		t.Errorf("a device: %v", err)
	}
	cut := archive(t, tar.Header{Name: "./x", Typeflag: tar.TypeReg}).Bytes()[:514]
	if err := (&Tree{}).Unpack(bytes.NewReader(cut), "cut"); err == nil || !strings.Contains(err.Error(), "cut") {
		t.Errorf("an archive that is cut short: %v", err)
	}
}

// TestDeterminism builds the same tree in two orders.
func TestDeterminism(t *testing.T) {
	puts := []func(*Tree) error{
		func(tr *Tree) error { return tr.Bytes("/usr/b", []byte("b"), 0o644) },
		func(tr *Tree) error { return tr.Bytes("/a", []byte("a"), 0o755) },
		func(tr *Tree) error { return tr.Link("a", "/z") },
		func(tr *Tree) error { return tr.Directory("/tmp", 0o777|fs.ModeSticky) },
		func(tr *Tree) error { return tr.Bytes("/usr/"+strings.Repeat("long/", 40)+"name", nil, 0o600) },
	}
	digest := func(when int64, puts ...func(*Tree) error) string {
		tr := &Tree{}
		for _, put := range puts {
			must(t, put(tr))
		}
		layer, err := Layer(tr, time.Unix(when, 0))
		must(t, err)
		d, err := layer.Digest()
		must(t, err)
		return d.String()
	}
	first := digest(7, puts...)
	slices.Reverse(puts)
	if second := digest(7, puts...); second != first {
		t.Errorf("digests %s and %s", first, second)
	}
	if digest(8, puts...) == first || digest(7, puts[1:]...) == first {
		t.Error("other trees, or times, have the same digest")
	}
}

func TestRoundTrip(t *testing.T) {
	tr := merged(t)
	var b bytes.Buffer
	must(t, tr.WriteTar(&b, time.Unix(7, 0)))
	for r := tar.NewReader(bytes.NewReader(b.Bytes())); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 7 || strings.HasPrefix(h.Name, "/") {
			t.Errorf("%+v", h)
		}
	}
	again := &Tree{}
	must(t, again.Unpack(&b, ""))
	for _, name := range tr.Names() {
		a, _ := tr.Get(name)
		if b, _ := again.Get(name); a.Mode != b.Mode || a.Target != b.Target || !bytes.Equal(a.Data, b.Data) {
			t.Errorf("%s: %+v, then %+v", name, a, b)
		}
	}
}

func TestOwner(t *testing.T) {
	tr := &Tree{}
	must(t, tr.Put("/var/lib/db", File{Mode: fs.ModeDir | 0o700, Owner: 999}))
	if err := tr.Put("/var/lib/db/x", File{Owner: 999}); err != nil || tr.Put("/var/lib/db/x", File{}) == nil {
		t.Errorf("a file of two owners: %v", err)
	}
	var b bytes.Buffer
	must(t, tr.WriteTar(&b, time.Unix(7, 0)))
	owners := make(map[string]int)
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		if h.Uid != h.Gid {
			t.Errorf("%s: user %d, group %d", h.Name, h.Uid, h.Gid)
		}
		owners[h.Name] = h.Uid
	}
	if want := map[string]int{"var/": 0, "var/lib/": 0, "var/lib/db/": 999, "var/lib/db/x": 999}; !maps.Equal(owners, want) {
		t.Errorf("got %v, want %v", owners, want)
	}
}

func TestWriteDir(t *testing.T) {
	tr, dir := merged(t), t.TempDir()
	must(t, tr.Directory("/tmp", 0o777|fs.ModeSticky), tr.WriteDir(dir))
	if data, err := os.ReadFile(filepath.Join(dir, "lib/x86/libc.so.6")); err != nil || string(data) != "c" {
		t.Errorf("got %q, %v", data, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "tmp")); err != nil || info.Mode() != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("tmp: %v, %v", info, err)
	}
	if err := tr.WriteDir(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("into a directory that is not empty: %v", err)
	}
}
