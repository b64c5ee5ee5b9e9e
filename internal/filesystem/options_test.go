package filesystem

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

func TestValidateOptions(t *testing.T) {
	t.Parallel()
	for _, list := range [][]string{
		nil, {"noatime"}, {"ro"}, {"nodev", "nosuid", "noexec"}, {"discard"}, {"errors=remount-ro"}, {"commit=30"},
		{"context=system_u:object_r:container_file_t:s0"}, {"nouuid", "logbsize=256k"},
	} {
		if err := ValidateOptions(list); err != nil {
			t.Errorf("%q: %v", list, err)
		}
	}
	for _, option := range []string{
		"", " ", "a b", "noatime,bind", "noatime\n", "a\tb", "a\x00", "bind", "rbind", "remount", "move", "loop", "loop=/dev/loop0",
		"device=/dev/sda", "logdev=/dev/sda", "rtdev=/dev/sda", "journal_path=/dev/sda", "journal_dev=0x801", "errors=continue", "errors=panic",
		"errors", "norecovery", "noload", "nobarrier", "barrier=0", "barrier", "sb=8193", "data_err=ignore", "suid",
		"shared", "rshared", "private", "rprivate", "slave", "rslave", "unbindable", "runbindable",
	} {
		err := ValidateOptions([]string{"noatime", option})
		if !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%q: %v", option, err)
			continue
		}
		name, _, _ := strings.Cut(option, "=")
		if !strings.ContainsAny(option, ", \t\n\x00") && !strings.Contains(err.Error(), `"`+name+`"`) {
			t.Errorf("%q: %v does not name it", option, err)
		}
	}
}

func TestParseKind(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Kind{"": Ext4, "ext4": Ext4, "xfs": XFS} {
		if got, err := ParseKind(name); got != want || err != nil {
			t.Errorf("%q: %s, %v", name, got, err)
		}
	}
	for _, name := range []string{"ext3", "EXT4", "xfs ", "btrfs", "blank", "other", "../ext4", "nfs"} {
		if got, err := ParseKind(name); !errors.Is(err, volume.ErrInvalid) || got != "" || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %s, %v", name, got, err)
		}
	}
}

func TestMountedAt(t *testing.T) {
	t.Parallel()
	table := []Mount{{Path: "/"}, {Path: "/a", Minor: 1}, {Path: "/a/b"}, {Path: "/a", Minor: 2}}
	if m, ok := MountedAt(table, "/a"); !ok || m.Minor != 2 {
		t.Errorf("%+v, %v; want the topmost", m, ok)
	}
	for _, path := range []string{"", "/a/", "/b", "/a/b/c", "a"} {
		if m, ok := MountedAt(table, path); ok {
			t.Errorf("%q: %+v", path, m)
		}
	}
	// The table of this process can be read, and "/" is in it.
	table, err := Mounts()
	if _, ok := MountedAt(table, "/"); err != nil || !ok {
		t.Errorf("%v, %v", ok, err)
	}
}

func TestMountPoints(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b")
	for range 2 {
		if err := MakeDir(path); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(path, "device")
	for range 2 {
		if err := MakeFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveMountPoint(path); err == nil {
		t.Error("a directory with entries was removed")
	}
	for _, p := range []string{file, file, path, path, filepath.Join(dir, "never", "there")} {
		if err := RemoveMountPoint(p); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	// A link must not lead a device node elsewhere.
	if err := os.Symlink(filepath.Join(dir, "victim"), file[:len(file)-len("b/device")]+"link"); err != nil {
		t.Fatal(err)
	}
	if err := MakeFile(filepath.Join(dir, "a", "link")); err == nil {
		t.Error("a link was followed")
	}
	if _, err := os.Lstat(filepath.Join(dir, "victim")); err == nil {
		t.Error("a file was made behind the link")
	}
}

func TestSuperblockGone(t *testing.T) {
	t.Parallel()
	sys := t.TempDir()
	if err := os.MkdirAll(filepath.Join(sys, "fs", "ext4", "nvme0n1"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind Kind
		disk string
		gone bool
	}{{Ext4, "nvme0n1", false}, {Ext4, "nvme0n2", true}, {XFS, "nvme0n1", true}} {
		if gone, err := SuperblockGone(sys, c.kind, c.disk); gone != c.gone || err != nil {
			t.Errorf("%s on %s: %v, %v", c.kind, c.disk, gone, err)
		}
	}
	// What cannot be looked at is not gone.
	if gone, err := SuperblockGone(filepath.Join(sys, strings.Repeat("x", 300)), Ext4, "nvme0n1"); gone || err == nil {
		t.Errorf("a path that is too long: %v, %v", gone, err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	sys := t.TempDir()
	dir := filepath.Join(sys, "fs", "ext4")
	for disk, text := range map[string]string{"dm-0": "0\n", "dm-1": "17\n", "dm-2": "many\n"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, disk), 0o700), os.WriteFile(filepath.Join(dir, disk, "errors_count"), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		kind Kind
		disk string
		path string
		want int
		bad  bool
	}{
		{Ext4, "dm-0", sys, 0, false},
		{Ext4, "dm-1", sys, 17, false},
		{Ext4, "dm-2", sys, 0, true},
		{Ext4, "dm-3", sys, 0, false}, // not mounted
		{XFS, "dm-1", sys, 0, false},
		{XFS, "dm-1", filepath.Join(sys, "none"), 0, false},
		{XFS, "dm-1", filepath.Join(sys, strings.Repeat("x", 300)), 0, true},
	} {
		if got, err := Errors(sys, c.kind, c.disk, c.path); got != c.want || (err != nil) != c.bad {
			t.Errorf("%s on %s: %d, %v", c.kind, c.disk, got, err)
		}
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	u, err := Stat(t.TempDir())
	if err != nil || u.TotalBytes <= 0 || u.UsedBytes+u.AvailableBytes > u.TotalBytes || u.TotalInodes < u.UsedInodes {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := Stat("/never/there"); err == nil {
		t.Error("no error for a path that is not there")
	}
}
