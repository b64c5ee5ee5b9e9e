package filesystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// packages are those that the programs come from, by their names on Debian.
var packages = map[string]string{"mkfs.ext4": "e2fsprogs", "e2fsck": "e2fsprogs", "mkfs.xfs": "xfsprogs", "mkswap": "util-linux"}

// run runs a program or ends the test: without it the test would say nothing.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	_, err := command.Exec{}.Run(t.Context(), name, args...)
	if err != nil {
		t.Fatalf("%v (%s is in the package %s)", err, name, packages[name])
	}
}

// xfsBytes is the least that mkfs.xfs takes.
const xfsBytes = 320 << 20

func sparse(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func probeFile(t *testing.T, path string) Content {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	c, err := ProbeReader(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// poke overwrites bytes of a file.
func poke(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(b, at)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestFormat makes real file systems as the driver does, and finds them.
func TestFormat(t *testing.T) {
	t.Parallel()
	for kind, size := range map[Kind]int64{Ext4: 64 << 20, XFS: xfsBytes} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			path := sparse(t, size)
			if c := probeFile(t, path); c.Kind != Blank {
				t.Fatalf("before: %+v", c)
			}
			for range 2 { // over itself too: a format that was cut short is begun again
				if err := Format(t.Context(), command.Exec{}, path, kind, nil); err != nil {
					t.Fatalf("%v (package %s)", err, packages[mkfsArgs[kind][0]])
				}
				if c := probeFile(t, path); c.Kind != kind || c.NeedsCheck || c.DeclaredBytes <= size/2 || c.DeclaredBytes > size {
					t.Fatalf("after: %+v", c)
				}
			}
			if err := Check(t.Context(), command.Exec{}, path, kind); err != nil {
				t.Errorf("check: %v", err)
			}
			// The primary superblock is gone and the rest is not: not ours, not blank.
			poke(t, path, 0, make([]byte, 4096))
			if c := probeFile(t, path); c.Kind != Other {
				t.Errorf("without its superblock: %+v", c)
			}
		})
	}
	if err := Format(t.Context(), command.Exec{}, "/nowhere", Other, nil); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("no kind: %v", err)
	}
}

// TestFormatArguments pins what is not done: discard, and questions.
func TestFormatArguments(t *testing.T) {
	t.Parallel()
	for kind, want := range map[Kind][]string{
		Ext4: {"mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=0", "-e", "remount-ro", "/dev/x"},
		XFS:  {"mkfs.xfs", "-q", "-f", "-K", "/dev/x"},
	} {
		var got []string
		record := runnerFunc(func(name string, args ...string) error { got = append([]string{name}, args...); return nil })
		for range 2 {
			if err := Format(t.Context(), record, "/dev/x", kind, nil); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %v, %v", kind, got, err)
			}
		}
	}
}

type runnerFunc func(name string, args ...string) error

func (f runnerFunc) Run(_ context.Context, name string, args ...string) ([]byte, error) {
	return nil, f(name, args...)
}

// TestHalfMade: a mkfs that is killed leaves anything between zeros and a file
// system; a copy of the first part of one is what it can look like.
func TestHalfMade(t *testing.T) {
	t.Parallel()
	whole := sparse(t, 64<<20)
	run(t, "mkfs.ext4", "-q", "-F", whole)
	b, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []int{1100, 4096, 8192, 1 << 20} {
		path := sparse(t, 64<<20)
		poke(t, path, 0, b[:part])
		if c := probeFile(t, path); c.Kind == Blank {
			t.Errorf("the first %d bytes: %+v", part, c)
		}
		path = sparse(t, 64<<20)
		poke(t, path, 1024, make([]byte, 1024))
		poke(t, path, 4096, b[4096:max(part, 8192)])
		if c := probeFile(t, path); c.Kind == Blank {
			t.Errorf("all but the superblock of the first %d bytes: %+v", part, c)
		}
	}
}

// TestRealNeighbours: programs of others leave what is refused.
func TestRealNeighbours(t *testing.T) {
	t.Parallel()
	swap := sparse(t, 64<<20)
	run(t, "mkswap", swap)
	if c := probeFile(t, swap); c.Kind != Other || c.Detail != "swap space" {
		t.Errorf("swap: %+v", c)
	}
	for _, version := range []string{"ext2", "ext3"} {
		path := sparse(t, 64<<20)
		run(t, "mkfs.ext4", "-q", "-F", "-t", version, path)
		want := map[string]Kind{"ext2": Other, "ext3": Ext4}[version]
		if c := probeFile(t, path); c.Kind != want {
			t.Errorf("%s: %+v, want %s", version, c, want)
		}
	}
}

// TestCheckRepairs: what the file system says of itself is repaired without a
// question, and what needs one is left to a person.
func TestCheckRepairs(t *testing.T) {
	t.Parallel()
	path := sparse(t, 64<<20)
	run(t, "mkfs.ext4", "-q", "-F", "-O", "^metadata_csum", path)
	poke(t, path, ext4Super+ext4StateAt, []byte{3, 0}) // clean, with errors
	if c := probeFile(t, path); !c.NeedsCheck {
		t.Fatalf("%+v", c)
	}
	if err := Check(t.Context(), command.Exec{}, path, Ext4); err != nil {
		t.Fatalf("%v (package e2fsprogs)", err)
	}
	if c := probeFile(t, path); c.NeedsCheck || c.Kind != Ext4 {
		t.Errorf("after the check: %+v", c)
	}
	for code, want := range map[int]error{0: nil, 1: nil, 2: volume.ErrPrecondition, 4: volume.ErrPrecondition, 8: volume.ErrPrecondition, 12: volume.ErrPrecondition, -1: volume.ErrPrecondition} {
		exit := runnerFunc(func(name string, args ...string) error {
			if code == 0 {
				return nil
			}
			return fmt.Errorf("run: %w", &command.ExitError{Name: name, Args: args, Code: code})
		})
		if err := Check(t.Context(), exit, "/dev/x", Ext4); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("e2fsck ends with %d: %v", code, err)
		}
		if err := Check(t.Context(), exit, "/dev/x", XFS); err != nil {
			t.Errorf("xfs: %v", err)
		}
	}
}
