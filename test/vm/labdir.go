//go:build linux

package vm

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const lockName = "lock"

// makeLabDir makes a directory that no other lab has, and sweeps out those of labs whose process died.
func makeLabDir(parent, name string) (string, *os.File, error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", nil, err
	}
	sweep(parent)
	dir, err := os.MkdirTemp(parent, fmt.Sprintf("%s-%d-", name, os.Getpid()))
	if err != nil {
		return "", nil, err
	}
	lock, err := lockFile(filepath.Join(dir, lockName), unix.LOCK_NB)
	if err != nil {
		return "", nil, err
	}
	return dir, lock, nil
}

// sweep removes the directories of labs that nobody holds the lock of. HOLDFAST_VM_KEEP=1 keeps them too.
func sweep(parent string) {
	if os.Getenv("HOLDFAST_VM_KEEP") == "1" {
		return
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(parent, e.Name(), lockName)
		f, err := os.OpenFile(path, os.O_RDWR, 0) // not created: a lab may be between making its directory and its lock
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(filepath.Dir(path)) // tidying only
		}
		f.Close()
	}
}
