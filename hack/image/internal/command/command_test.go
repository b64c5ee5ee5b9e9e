package command

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	out, err := RunWith("GREETING=hello")(t.Context(), dir, "sh", "-c", "echo $GREETING; pwd; echo noise >&2")
	if want := "hello\n" + dir + "\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
	if _, err := Run(t.Context(), "", "sh", "-c", "echo the reason >&2; exit 3"); err == nil || !strings.HasSuffix(err.Error(), "exit status 3: the reason") {
		t.Errorf("a program that fails: %v", err)
	}
	if _, err := Run(t.Context(), "", "no-such-program"); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := Run(ctx, "", "sleep", "60"); err == nil || time.Since(start) > 30*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}

// TestInRoot has an empty root: what is there of this machine must not be found.
func TestInRoot(t *testing.T) {
	_, err := InRoot(t.Context(), t.TempDir(), "/bin", "/bin/sh", "-c", "exit 0")
	if errors.Is(err, syscall.EPERM) {
		t.Skipf("this machine gives no root directory to who asks: %v", err)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "script"), []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := InRoot(t.Context(), root, "/", "/script"); !errors.Is(err, syscall.ENOEXEC) {
		t.Errorf("no program: %v", err)
	}
}
