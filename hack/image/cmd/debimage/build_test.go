package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/holdfast-csi/holdfast/hack/image/internal/debian"
	"github.com/holdfast-csi/holdfast/hack/image/internal/debian/debiantest"
)

// archive has a database beside what is in every Debian.
func archive() *debiantest.Archive {
	a := debiantest.Small()
	a.Packages["db-15"] = debiantest.Package{Depends: []string{"libc6"}, Files: map[string]string{
		"/usr/lib/db/15/bin/db": debiantest.Program("libc.so.6"), "/usr/lib/db/15/bin/cli": debiantest.Program(),
		"/usr/share/db/15/system.sql": "select", "/usr/share/doc/db-15/copyright": "c",
	}}
	a.Packages["tzdata"] = debiantest.Package{Files: map[string]string{"/usr/share/zoneinfo/UTC": "0"}}
	a.Packages["busybox-static"] = debiantest.Package{Files: map[string]string{
		"/bin/busybox": debiantest.Program(), "/usr/share/doc/busybox-static/copyright": "c",
	}}
	return a
}

// runner is busybox, when it is asked what it can be.
func runner(t *testing.T, says string) func(context.Context, string, ...string) ([]byte, error) {
	return func(_ context.Context, _ string, argv ...string) ([]byte, error) {
		if info, err := os.Stat(argv[0]); err != nil || info.Mode().Perm()&0o100 == 0 || !slices.Equal(argv[1:], []string{"--list"}) {
			t.Errorf("run %q: %v", argv, err)
		}
		return []byte(says), nil
	}
}

func testOptions(t *testing.T, more string) *options {
	t.Helper()
	o, err := parse(database+" --out "+filepath.Join(t.TempDir(), "deep", "db.tar")+" --cache "+t.TempDir()+" "+more, "")
	if err != nil {
		t.Fatal(err)
	}
	o.arch = "amd64" // of the archive
	return o
}

func TestFill(t *testing.T) {
	o := testOptions(t, "--program /sbin/mkfs.ext4 --package e2fsprogs")
	c, err := fill(t.Context(), archive(), runner(t, "[\nbusybox\nmkfs.ext4\nsh\n"), o)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"/bin/sh": "/usr/bin/busybox", "/bin/[": "/usr/bin/busybox", "/bin/busybox": "/usr/bin/busybox",
		"/sbin/mkfs.ext4": "/usr/sbin/mke2fs", "/var/run/db": "/run/db", "/usr/share/db/15/system.sql": "/usr/share/db/15/system.sql",
	} {
		if end, _, err := c.Tree.Resolve(name); end != want {
			t.Errorf("%s leads to %q, %v, want %s", name, end, err, want)
		}
	}
	everybody := fs.ModeDir | fs.ModeSticky | 0o777
	for name, want := range map[string]struct {
		mode  fs.FileMode
		owner int
	}{"/var/lib/db": {fs.ModeDir | 0o700, 999}, "/run": {everybody, 0}, "/run/db": {everybody, 0}, "/tmp": {everybody, 0}} {
		if f, _ := c.Tree.Get(name); f.Mode != want.mode || f.Owner != want.owner {
			t.Errorf("%s: mode %s, owner %d, want %+v", name, f.Mode, f.Owner, want)
		}
	}
	if f, _ := c.Tree.Get("/etc/passwd"); !strings.Contains(string(f.Data), "\ndb:x:999:999:db:/var/lib/db:") {
		t.Errorf("passwd is %s", f.Data)
	}
	if f, _ := c.Tree.Get("/etc/group"); string(f.Data) != "root:x:0:\ndb:x:999:\n" {
		t.Errorf("group is %s", f.Data)
	}
}

// TestFillTaken: what the packages have at a name in /bin stays.
func TestFillTaken(t *testing.T) {
	a := archive()
	a.Packages["db-15"].Files["/bin/ls"] = debiantest.Program()
	c, err := fill(t.Context(), a, runner(t, "ls\n"), testOptions(t, "--program /bin/ls"))
	if err != nil {
		t.Fatal(err)
	}
	if f, _ := c.Tree.Get("/bin/ls"); !f.Mode.IsRegular() {
		t.Errorf("ls is %s, to %q", f.Mode, f.Target)
	}
}

func TestFillFails(t *testing.T) {
	for name, c := range map[string]struct{ flags, says, want string }{
		"no such program": {"--program /usr/bin/nothing", "", "program /usr/bin/nothing of package db-15 or tzdata or busybox-static"},
		"no such tree":    {"--tree /usr/share/nothing", "", "tree /usr/share/nothing of package db-15 or tzdata or busybox-static"},
		"no such package": {"--package nothing", "", "unable to locate package nothing"},
		"odd applet":      {"", "sh\n../sh\n", `"../sh"`},
		"directory taken": {"--dir /usr/share/db/15/system.sql", "", "/usr/share/db/15/system.sql"},
		"not a program":   {"--program /usr/share/db/15/system.sql", "", "not an ELF file"},
	} {
		if _, err := fill(t.Context(), archive(), runner(t, c.says), testOptions(t, c.flags)); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestSearch(t *testing.T) {
	o := testOptions(t, "--program /usr/bin/locale")
	want := "/usr/lib/db/15/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin"
	if got := search(o.request.Programs); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := search(nil); got != debian.Search {
		t.Errorf("without programs: %s", got)
	}
}

// image builds one of the archive.
func image(t *testing.T, o *options) v1.Image {
	t.Helper()
	c, err := fill(t.Context(), archive(), runner(t, "sh\n"), o)
	if err != nil {
		t.Fatal(err)
	}
	image, err := assemble(o, c.Tree)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestWrite(t *testing.T) {
	o := testOptions(t, "")
	var first []byte
	for range 2 { // over an earlier one
		if err := write(t.Context(), o, image(t, o)); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(o.out)
		if err != nil || (first != nil && string(text) != string(first)) {
			t.Errorf("the archive differs: %v", err)
		}
		first = text
	}
	got, err := tarball.ImageFromPath(o.out, &o.tag)
	if err != nil {
		t.Fatal(err)
	}
	config, err := got.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config
	if config.Architecture != "amd64" || config.OS != "linux" || config.Created.Unix() != 0 || len(config.RootFS.DiffIDs) != 1 ||
		c.User != "" || c.Entrypoint != nil || c.Cmd != nil || len(c.Env) != 2 || c.Env[1] != "LANG=C" ||
		!strings.HasPrefix(c.Env[0], "PATH=/usr/lib/db/15/bin:/usr/local/sbin:") {
		t.Errorf("configuration %+v", config)
	}
}

// TestWriteFails: an earlier archive stays as it is, and nothing else stays.
func TestWriteFails(t *testing.T) {
	o := testOptions(t, "")
	dir := filepath.Dir(o.out)
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(o.out, []byte("earlier"), 0o644),
		os.WriteFile(filepath.Join(dir, ".db.tar.new"), []byte("of a run that was killed"), 0o644)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := write(ctx, o, image(t, o)); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if text, err := os.ReadFile(o.out); err != nil || string(text) != "earlier" {
		t.Errorf("the archive is %q, %v", text, err)
	}
}
