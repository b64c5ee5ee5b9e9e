package initiator

import (
	"context"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/urgent"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

// Connector makes one connection. Nil means that a controller was made, and it
// was live then; anything else is a *ConnectError, or an error of
// Target.Validate. It returns when ctx ends, also where the kernel goes on.
type Connector interface {
	Connect(ctx context.Context, target nvme.Target, config nvme.ConnectionConfig) error
}

type fabrics struct{ fs nvmesysfs.FS }

// NewFabrics connects by one write to /dev/nvme-fabrics, whose errors are error
// numbers. It is the default.
func NewFabrics(fs nvmesysfs.FS) Connector { return fabrics{fs} }

// Connect writes the options. The write takes up to 3 s on a silent address and
// up to 10 s a queue on a target that hangs, and cannot be cancelled.
func (f fabrics) Connect(ctx context.Context, t nvme.Target, c nvme.ConnectionConfig) error {
	if err := t.Validate(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return connectError(opConnect, t, err)
	}
	done := make(chan error, 1)
	go func() { done <- urgent.Do(func() error { return f.write(nvme.FabricsOptions(t, c)) }) }()
	select {
	case err := <-done:
		return connectError(opConnect, t, err)
	case <-ctx.Done():
		return connectError(opConnect, t, ctx.Err())
	}
}

// write uses the system calls as they are: os.File repeats a write that a
// signal interrupted, and takes EAGAIN for something to wait for.
func (f fabrics) write(options string) error {
	path := filepath.Join(f.fs.Dev, "nvme-fabrics")
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // the controller outlives the file
	_, err = unix.Write(fd, []byte(options))
	return err
}
