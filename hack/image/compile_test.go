package main

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

func TestParseModules(t *testing.T) {
	got := parseModules("a.example/x\t/mod/x@v1\n\na.example/y\t/mod/y@v1\na.example/x\t/mod/x@v1\n")
	if want := map[string]string{"a.example/x": "/mod/x@v1", "a.example/y": "/mod/y@v1"}; !maps.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestPutLicences(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"LICENSE", "LICENCE.txt", "Copying", "NOTICE.md", "PATENTS", "licenses.go", "README", "LICENSE-MIT"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree := &rootfs.Tree{}
	if err := putLicences(tree, "/d", dir, "x"); err != nil {
		t.Fatal(err)
	}
	want := []string{"/d", "/d/Copying", "/d/LICENCE.txt", "/d/LICENSE", "/d/LICENSE-MIT", "/d/NOTICE.md", "/d/PATENTS"}
	if got := tree.Names(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	empty := t.TempDir()
	if err := putLicences(tree, "/d", empty, "a.example/x"); err == nil || !strings.Contains(err.Error(), "licence of a.example/x: there is none in "+empty) {
		t.Errorf("no licence: %v", err)
	}
	if err := putLicences(tree, "/d", filepath.Join(empty, "gone"), "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}
