package node

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/internal/filesystem"
)

// System is the real mounter, disk and flusher.
type System struct {
	SysRoot string // "/sys"
	Run     command.Runner
}

var (
	_ mounter = System{}
	_ disk    = System{}
	_ flusher = System{}
)

// Mounts reads the mount table.
func (System) Mounts() ([]filesystem.Mount, error) { return filesystem.Mounts() }

// MountDevice makes the staging directory and mounts device there.
func (System) MountDevice(device, path string, kind filesystem.Kind, options []string) error {
	if err := filesystem.MakeDir(path); err != nil {
		return err
	}
	return filesystem.MountDevice(device, path, kind, options)
}

// Bind is filesystem.Bind.
func (System) Bind(source, target string, readOnly bool) error {
	return filesystem.Bind(source, target, readOnly)
}

// Unmount is filesystem.Unmount.
func (System) Unmount(path string) error { return filesystem.Unmount(path) }

// Probe is filesystem.Probe.
func (System) Probe(ctx context.Context, device string, size int64) (filesystem.Content, error) {
	return filesystem.Probe(ctx, device, size)
}

// AllZero reads all of device with direct I/O.
func (System) AllZero(ctx context.Context, device string, size int64) (zero bool, err error) {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("read all: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return filesystem.AllZero(ctx, f, size)
}

// Format is filesystem.Format.
func (s System) Format(ctx context.Context, device string, kind filesystem.Kind, options []string) error {
	return filesystem.Format(ctx, s.Run, device, kind, options)
}

// Check is filesystem.Check.
func (s System) Check(ctx context.Context, device string, kind filesystem.Kind) error {
	return filesystem.Check(ctx, s.Run, device, kind)
}

// Sync is filesystem.Sync.
func (System) Sync(path string) error { return filesystem.Sync(path) }

// FlushDevice is filesystem.FlushDevice.
func (System) FlushDevice(device string) error { return filesystem.FlushDevice(device) }

// SuperblockGone is filesystem.SuperblockGone.
func (s System) SuperblockGone(kind filesystem.Kind, disk string) (bool, error) {
	return filesystem.SuperblockGone(s.SysRoot, kind, disk)
}

// Errors is filesystem.Errors.
func (s System) Errors(kind filesystem.Kind, disk, path string) (int, error) {
	return filesystem.Errors(s.SysRoot, kind, disk, path)
}

// Stat is filesystem.Stat.
func (System) Stat(path string) (filesystem.Usage, error) { return filesystem.Stat(path) }
