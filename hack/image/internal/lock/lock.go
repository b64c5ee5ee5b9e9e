// Package lock keeps two builds out of one directory. It does not wait.
package lock

import (
	"fmt"
	"os"
	"syscall"
)

// Dir makes a directory and keeps other builds out of it until the file is closed, by the end of the process at the
// latest.
func Dir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lock %s, which another build may be using: %w", dir, err)
	}
	return f, nil
}
