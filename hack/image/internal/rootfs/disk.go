package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// WriteDir writes the tree below a directory, which must be empty. All of it belongs to the user who runs it.
func (t *Tree) WriteDir(dir string) (err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for _, name := range t.Names() {
		if err := writeFile(root, strings.TrimPrefix(name, "/"), t.files[name]); err != nil {
			return fmt.Errorf("write below %s: %w", dir, err)
		}
	}
	return nil
}

func writeFile(root *os.Root, name string, f File) error {
	switch f.Mode.Type() {
	case fs.ModeSymlink:
		return root.Symlink(f.Target, name)
	case fs.ModeDir:
		if err := root.Mkdir(name, 0o755); err != nil {
			return err
		}
	default:
		if err := root.WriteFile(name, f.Data, 0o755); err != nil {
			return err
		}
	}
	return root.Chmod(name, f.Mode&keptBits) // whatever the umask
}
