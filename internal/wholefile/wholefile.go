// Package wholefile writes files that are there whole or not at all, whatever ends the
// process or the machine's power meanwhile.
//
// It does not lock, and it does not remove what an interrupted write has left beside:
// whoever has the directory knows when nobody writes there.
package wholefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Prefix is how the names of files begin that are being written.
const Prefix = ".new-"

// Replace puts a file in the place of what is at path, if anything is. A durable one is
// on disk when Replace returns; the other kind outlives the process, not the machine's
// power.
func Replace(path string, content []byte, mode fs.FileMode, durable bool) error {
	return place(path, content, mode, durable, func(next string) error { return os.Rename(next, path) })
}

// Create is Replace of a durable file that must not be there yet: fs.ErrExist.
func Create(path string, content []byte, mode fs.FileMode) error {
	return place(path, content, mode, true, func(next string) error {
		return errors.Join(os.Link(next, path), os.Remove(next)) // unlike a rename it fails if the name is taken
	})
}

func place(path string, content []byte, mode fs.FileMode, durable bool, name func(next string) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), Prefix+"*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // it may have its name already
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := name(f.Name()); err != nil || !durable {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir brings the names in a directory to the disk.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
