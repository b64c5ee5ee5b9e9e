package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/internal/wholefile"
)

// lockTimeout is long enough for a predecessor that is just ending.
const lockTimeout = 2 * time.Second

// DB is the open database. It may be used by several goroutines; updates wait
// for each other, views wait for nobody.
type DB struct {
	bolt         *bbolt.DB
	installation Installation
}

// Open opens the database, or makes it with a new installation. A lock held by
// another process, a file that others can read and a schema that is newer than
// this build are volume.ErrPrecondition.
func Open(path string) (*DB, error) {
	if err := checkFile(path); err != nil {
		return nil, err
	}
	b, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("another holdfast target is running on %q: %w", path, volume.ErrPrecondition)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, fmt.Errorf("database %q is damaged or is not one: %w: %w", path, err, volume.ErrDataLoss)
	case err != nil:
		return nil, fmt.Errorf("open database %q: %w", path, err)
	}
	d := &DB{bolt: b}
	if err := d.start(path); err != nil {
		_ = b.Close() // the first error is the one to report
		return nil, fmt.Errorf("database %q: %w", path, err)
	}
	return d, nil
}

// start reads the schema before it writes anything, so that a newer database is
// left as it was.
func (d *DB) start(path string) error {
	// bbolt flushes the file but not its name.
	if err := wholefile.SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	isNew := false
	err := d.bolt.View(func(tx *bbolt.Tx) (err error) {
		isNew, err = isEmpty(tx)
		if err == nil && !isNew {
			d.installation, err = readMeta(tx)
		}
		return err
	})
	if err != nil {
		return err
	}
	return d.bolt.Update(func(tx *bbolt.Tx) (err error) {
		if isNew {
			d.installation, err = initialize(tx)
		}
		if err != nil {
			return err
		}
		return recount(tx)
	})
}

// checkFile refuses a file that others can read: it holds the secret of the
// tokens. One that is not there is in order.
func checkFile(path string) error {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("database %q: is not a regular file: %w", path, volume.ErrPrecondition)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("database %q: has mode %#o, must be 0600: %w", path, fi.Mode().Perm(), volume.ErrPrecondition)
	}
	return nil
}

// Close waits for transactions under way and lets go of the lock.
func (d *DB) Close() error { return d.bolt.Close() }

// Installation returns the identity that was made with the database.
func (d *DB) Installation() Installation {
	return Installation{ID: d.installation.ID, Secret: append(Secret(nil), d.installation.Secret...)}
}

// View runs fn on one consistent state. It must not be nested in an Update, nor
// the other way round: bbolt would wait for ever.
func (d *DB) View(fn func(*Tx) error) error {
	return d.bolt.View(func(tx *bbolt.Tx) error { return fn(&Tx{tx}) })
}

// Update runs fn and makes all it did durable, or, if fn returns an error, none
// of it.
func (d *DB) Update(fn func(*Tx) error) error {
	return d.bolt.Update(func(tx *bbolt.Tx) error { return fn(&Tx{tx}) })
}
