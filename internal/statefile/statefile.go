// Package statefile keeps small JSON records, one a file, so that a crash of the
// process leaves either the old or the new content: write beside, rename. What
// has to outlive the machine's power is flushed too, file and directory.
//
// It knows nothing of what is in a record and does not lock.
package statefile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/internal/wholefile"
)

const suffix = ".json"

// Dir is a directory of records.
type Dir[T any] struct {
	path    string
	durable bool
}

// Open makes the directory if needed, and removes what a crash left half-written.
// A record is on disk when Put returns.
func Open[T any](path string) (Dir[T], error) { return open[T](path, true) }

// OpenVolatile is Open for records that mean nothing after the next boot: they
// outlive the process, not the machine's power.
func OpenVolatile[T any](path string) (Dir[T], error) { return open[T](path, false) }

func open[T any](path string, durable bool) (Dir[T], error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return Dir[T]{}, fmt.Errorf("state directory: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return Dir[T]{}, fmt.Errorf("state directory: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), wholefile.Prefix) {
			continue
		}
		if err := os.Remove(filepath.Join(path, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return Dir[T]{}, fmt.Errorf("state directory %s: %w", path, err)
		}
	}
	return Dir[T]{path: path, durable: durable}, nil
}

// file names a record by a hash: keys come from outside and may hold anything.
func (d Dir[T]) file(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(d.path, hex.EncodeToString(sum[:16])+suffix)
}

// Put writes the record of key.
func (d Dir[T]) Put(key string, v T) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("record of %s: %w", key, err)
	}
	if err := wholefile.Replace(d.file(key), append(b, '\n'), 0o600, d.durable); err != nil {
		return fmt.Errorf("record of %s: %w", key, err)
	}
	return nil
}

// Get reads the record of key; volume.ErrNotFound if there is none.
func (d Dir[T]) Get(key string) (T, error) {
	v, err := read[T](d.file(key))
	if errors.Is(err, os.ErrNotExist) {
		return v, fmt.Errorf("record of %s: %w", key, volume.ErrNotFound)
	}
	if err != nil {
		return v, fmt.Errorf("record of %s: %w", key, err)
	}
	return v, nil
}

// Delete removes the record of key; none is no error.
func (d Dir[T]) Delete(key string) error {
	if err := os.Remove(d.file(key)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("record of %s: %w", key, err)
	}
	if !d.durable {
		return nil
	}
	return wholefile.SyncDir(d.path)
}

// All reads every record. One that cannot be read is an error: leaving it out
// would make its volume invisible.
func (d Dir[T]) All() ([]T, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	var out []T
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		v, err := read[T](filepath.Join(d.path, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted since the directory was read
		}
		if err != nil {
			return nil, fmt.Errorf("record %s: %w", e.Name(), err)
		}
		out = append(out, v)
	}
	return out, nil
}

func read[T any](path string) (v T, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("%s is damaged: %w", path, err)
	}
	return v, nil
}
