package file

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

func TestOpenRefusesDirectories(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	real, link, plain := filepath.Join(base, "real"), filepath.Join(base, "link"), filepath.Join(base, "plain")
	if err := os.MkdirAll(filepath.Join(real, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	touch(t, plain)
	for dir, text := range map[string]string{
		"":                         "absolute",
		"relative/dir":             "absolute",
		real + "/":                 "shortest form",
		base + "/x/../real":        "shortest form",
		filepath.Join(base, "no"):  "does not exist",
		plain:                      "not a directory",
		link:                       "symbolic link",
		filepath.Join(link, "sub"): filepath.Join(real, "sub"),
	} {
		o := Options{Name: "fast", Dir: dir, Installation: "i", AllowAnyFS: true}
		_, err := Open(o)
		wantErr(t, err, volume.ErrPrecondition, dir, "fast", text)
		wantErr(t, Init(o), volume.ErrPrecondition, dir, text)
	}
	for _, o := range []Options{
		{Name: "", Dir: real, Installation: "i"}, {Name: "A", Dir: real, Installation: "i"},
		{Name: "a", Dir: real}, {Name: "a", Dir: real, Installation: "i", ReserveBytes: -1},
	} {
		_, err := Open(o)
		wantErr(t, err, volume.ErrInvalid)
	}
}

func TestOtherFileSystemsAreNamed(t *testing.T) {
	for dir, want := range map[string]string{"/proc": "proc", "/sys": "sysfs"} {
		_, err := Open(Options{Name: "fast", Dir: dir, Installation: "i"})
		wantErr(t, err, volume.ErrPrecondition, dir, "is on "+want, "xfs, btrfs or ext4")
	}
}

func TestFileSystemType(t *testing.T) {
	dir := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	name, ok, err := fsType(dir)
	good := name == "ext4" || name == "xfs" || name == "btrfs"
	if err != nil || name == "" || ok != good {
		t.Errorf("%q, %v, %v", name, ok, err)
	}
}

func TestMarker(t *testing.T) {
	o := initPool(t)
	if err := Init(o); err != nil {
		t.Errorf("again: %v", err)
	}
	other := o
	other.Installation = "inst-2"
	_, err := Open(other)
	wantErr(t, err, volume.ErrPrecondition, "inst-1", "inst-2", o.Dir)
	wantErr(t, Init(other), volume.ErrExists, "inst-1", "inst-2", o.Dir)
	other = o
	other.Name = "slow"
	_, err = Open(other)
	wantErr(t, err, volume.ErrPrecondition, `"fast"`, `"slow"`, o.Dir)
	wantErr(t, Init(other), volume.ErrExists, `"fast"`, `"slow"`)

	path := filepath.Join(o.Dir, markerName)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(o)
	wantErr(t, err, volume.ErrPrecondition, path)
	wantErr(t, Init(o), volume.ErrPrecondition, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err = Open(o)
	wantErr(t, err, volume.ErrPrecondition, o.Dir, "may not be mounted", "init")
	if err := os.Symlink("/etc/hostname", path); err != nil {
		t.Fatal(err)
	}
	_, err = Open(o)
	wantErr(t, err, volume.ErrPrecondition, path)
}

func TestInitRefusesOrphans(t *testing.T) {
	p := newPool(t)
	id := create(t, p, mib)
	if err := os.Remove(filepath.Join(p.opts.Dir, markerName)); err != nil {
		t.Fatal(err)
	}
	wantErr(t, Init(p.opts), volume.ErrPrecondition, p.Path(id))
	if err := p.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := Init(p.opts); err != nil {
		t.Error(err)
	}
}

func TestVolumesMustBeADirectory(t *testing.T) {
	o := initPool(t)
	path := filepath.Join(o.Dir, volumesDir)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err := Open(o)
	wantErr(t, err, volume.ErrPrecondition, path)
	if err := os.Symlink(t.TempDir(), path); err != nil {
		t.Fatal(err)
	}
	_, err = Open(o)
	wantErr(t, err, volume.ErrPrecondition, path, "directory")
}

func TestCapacity(t *testing.T) {
	p, ctx := newPool(t), t.Context()
	var fs unix.Statfs_t
	if err := unix.Statfs(p.opts.Dir, &fs); err != nil {
		t.Fatal(err)
	}
	c, err := p.Capacity(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(fs.Blocks) * int64(fs.Frsize); c.TotalBytes != want {
		t.Errorf("total %d, want %d", c.TotalBytes, want)
	}
	if c.ForeignBytes < 0 || c.ForeignBytes > c.TotalBytes || c.BlockSize != int(min(fs.Bsize, 4096)) {
		t.Errorf("%+v", c)
	}
	if c.ReserveBytes != p.opts.reserve(c.TotalBytes) {
		t.Errorf("reserve %d", c.ReserveBytes)
	}
	// What the volumes take is not foreign: half of what was written is
	// tolerance for whatever else writes to this file system.
	id := create(t, p, 64*mib)
	writeAt(t, p.Path(id), 0, make([]byte, 64*mib))
	change(t, p.Path(id), (*os.File).Sync)
	ours, _, err := p.allocated(ctx)
	if err != nil || ours < 64*mib {
		t.Errorf("allocated %d, %v", ours, err)
	}
}

func TestReserve(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct{ option, total, want int64 }{
		{0, 1 * gib, gib / 5}, {0, 10 * gib, gib}, {0, 100 * gib, 5 * gib}, {7, 100 * gib, 7}, {0, 0, 0},
	} {
		if got := (Options{ReserveBytes: c.option}).reserve(c.total); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
	if bytesOf(1<<62, 4096) <= 0 || bytesOf(3, 4096) != 12288 {
		t.Error("bytesOf wraps")
	}
}

func TestWarnings(t *testing.T) {
	p := newPool(t)
	touch(t, filepath.Join(p.opts.Dir, "foreign.txt"))
	if err := os.Mkdir(filepath.Join(p.opts.Dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		touch(t, filepath.Join(p.opts.Dir, volumesDir, name))
	}
	c, err := p.Capacity(t.Context())
	if err != nil || len(c.Warnings) != 3 {
		t.Fatalf("%q, %v", c.Warnings, err)
	}
	for i, text := range []string{"not a mount point", "not the pool's: foreign.txt", "a, b, c, d, e, and 2 more"} {
		if !strings.Contains(c.Warnings[i], text) || !strings.Contains(c.Warnings[i], p.opts.Dir) {
			t.Errorf("warning %q: want %q", c.Warnings[i], text)
		}
	}
}
