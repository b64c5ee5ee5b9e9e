package nvmet_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// An ordinary directory stands in for configfs: paths, links and errnos.
func TestConfigFS(t *testing.T) {
	root := t.TempDir()
	c := nvmet.NewConfigFS(root)
	for _, dir := range []string{"hosts", "hosts/h", "ports"} {
		if err := c.Mkdir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Mkdir("hosts"); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("mkdir: %v", err)
	}
	if err := c.Rmdir("hosts"); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("rmdir: %v", err)
	}
	if err := c.Symlink("hosts/h", "ports/h"); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(filepath.Join(root, "ports/h")); err != nil || target != filepath.Join(root, "hosts/h") {
		t.Errorf("link to %q, %v", target, err)
	}
	if err := c.WriteFile("attr", "1"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("write made a file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "attr"), []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteFile("attr", "1"); err != nil {
		t.Fatal(err)
	}
	if text, err := c.ReadFile("attr"); err != nil || text != "1\n" {
		t.Errorf("read %q, %v", text, err)
	}
	if names, err := c.ReadDir(""); err != nil || !slices.Equal(names, []string{"attr", "hosts", "ports"}) {
		t.Errorf("names %v, %v", names, err)
	}
	if err := c.Unlink("ports/h"); err != nil {
		t.Fatal(err)
	}
	if err := c.Unlink("ports/h"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("unlink: %v", err)
	}
	if err := c.Rmdir("hosts/h"); err != nil {
		t.Fatal(err)
	}
}

func TestReady(t *testing.T) {
	for _, root := range []string{filepath.Join(t.TempDir(), "nvmet"), filepath.Join(t.TempDir(), "config", "nvmet")} {
		if err := nvmet.Ready(root); !errors.Is(err, volume.ErrPrecondition) {
			t.Errorf("%s: %v", root, err)
		}
	}
}
