package wholefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestReplace(t *testing.T) {
	t.Parallel()
	for _, durable := range []bool{true, false} {
		dir := t.TempDir()
		path := filepath.Join(dir, "a")
		for _, text := range []string{"one", "", "three"} {
			if err := Replace(path, []byte(text), 0o640, durable); err != nil {
				t.Fatal(err)
			}
			want(t, path, text)
		}
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o640 {
			t.Errorf("%v, %v", fi.Mode(), err)
		}
		only(t, dir, "a")
	}
}

func TestCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := Create(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, []byte("two"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file was created twice: %v", err)
	}
	want(t, path, "one")
	only(t, dir, "a")
}

// What fails leaves what was there.
func TestFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "by a directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Replace(path, []byte("x"), 0o600, true); err == nil {
		t.Error("a directory was replaced")
	}
	only(t, dir, "taken")
	if err := Replace(filepath.Join(dir, "nowhere", "a"), nil, 0o600, true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("written to a directory that is not there: %v", err)
	}
}

func want(t *testing.T, path, text string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Errorf("%s: %q, %v; want %q", path, got, err, text)
	}
}

func only(t *testing.T, dir, name string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil || len(all) != 1 || all[0].Name() != name {
		t.Errorf("in the directory: %v, %v", all, err)
	}
}
