package lock

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "out")
	held, err := Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := Dir(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("two hold it: %v, %v", second, err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	held, err = Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	held.Close()
}
