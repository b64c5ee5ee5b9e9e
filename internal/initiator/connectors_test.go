package initiator_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

func TestFabricsWritesOnce(t *testing.T) {
	fs := nvmesysfs.FS{Sys: t.TempDir(), Dev: t.TempDir()}
	file := filepath.Join(fs.Dev, "nvme-fabrics")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	target, config := targetAt(portalA, testNQN), nvme.DefaultConnectionConfig()
	if err := initiator.NewFabrics(fs).Connect(t.Context(), target, config); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != nvme.FabricsOptions(target, config) {
		t.Errorf("wrote %q, %v", got, err)
	}
}

func TestFabricsWithoutTheModule(t *testing.T) {
	fs := nvmesysfs.FS{Sys: t.TempDir(), Dev: t.TempDir()}
	err := initiator.NewFabrics(fs).Connect(t.Context(), targetAt(portalA, testNQN), nvme.ConnectionConfig{})
	wantIs(t, err, os.ErrNotExist)
	if err == nil || !strings.Contains(err.Error(), "module nvme-tcp not loaded") {
		t.Errorf("got %v", err)
	}
}

// A pipe that nobody reads blocks a write as the kernel does.
func TestFabricsReturnsWithTheContext(t *testing.T) {
	fs := nvmesysfs.FS{Sys: t.TempDir(), Dev: t.TempDir()}
	file := filepath.Join(fs.Dev, "nvme-fabrics")
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(file, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := pipe.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := pipe.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	t.Cleanup(func() { // lets the write go on
		go func() { _, _ = pipe.Read(make([]byte, 1<<20)) }()
	})
	begin := time.Now()
	err = initiator.NewFabrics(fs).Connect(within(t, 100*time.Millisecond), targetAt(portalA, testNQN), nvme.ConnectionConfig{})
	wantIs(t, err, context.DeadlineExceeded)
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("after %v", d)
	}
}

// script is a Runner that answers one thing.
type script struct {
	args []string
	err  error
}

func (s *script) Run(_ context.Context, name string, args ...string) ([]byte, error) {
	s.args = append([]string{name}, args...)
	return nil, s.err
}

func TestCLI(t *testing.T) {
	target, config := targetAt(portalA, testNQN), nvme.DefaultConnectionConfig()
	for _, c := range []struct {
		name string
		err  error
		want []error
	}{
		{"success", nil, nil},
		{"a text that is known", &command.ExitError{Code: 1, Stderr: "could not add new controller: connection refused\n"}, []error{syscall.ECONNREFUSED}},
		{"already", &command.ExitError{Code: 1, Stderr: "already connected\n"}, []error{initiator.ErrAlreadyConnected, syscall.EALREADY}},
		{"not installed", &exec.Error{Name: "nvme", Err: exec.ErrNotFound}, []error{exec.ErrNotFound}},
		{"context", context.DeadlineExceeded, []error{context.DeadlineExceeded}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &script{err: c.err}
			err := initiator.NewCLI(s).Connect(t.Context(), target, config)
			if (err != nil) != (c.err != nil) {
				t.Fatalf("got %v", err)
			}
			wantIs(t, err, c.want...)
			if want := append([]string{"nvme"}, nvme.BuildConnectArgs(target, config)...); !slices.Equal(s.args, want) {
				t.Errorf("ran %q", s.args)
			}
		})
	}
	unknown := &command.ExitError{Code: 139, Stderr: "Segmentation fault"}
	err := initiator.NewCLI(&script{err: unknown}).Connect(t.Context(), target, config)
	var e *initiator.ConnectError
	var exit *command.ExitError
	if !errors.As(err, &e) || !errors.As(err, &exit) || exit != unknown {
		t.Errorf("got %v", err)
	}
}
