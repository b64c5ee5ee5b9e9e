package file

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/internal/wholefile"
)

const markerName = ".holdfast-pool"

// marker lies on the file system itself: if it is missing, something else is
// mounted at the directory, or nothing.
type marker struct {
	Name         string `json:"name"`
	Installation string `json:"installation"`
}

// Init makes the directory a pool: the directory of volumes, then the marker.
// Repeated for the same pool it does nothing; a marker of another pool is
// volume.ErrExists. Volume files without a marker are refused, because nobody
// can say whose they are.
func Init(o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	if err := checkDir(o); err != nil {
		return err
	}
	m, err := readMarker(o)
	switch {
	case err == nil && m != (marker{o.Name, o.Installation}):
		return fmt.Errorf("directory %q: is pool %q of installation %q already, not %q of %q: %w",
			o.Dir, m.Name, m.Installation, o.Name, o.Installation, volume.ErrExists)
	case err == nil:
		return initVolumesDir(o)
	case !errors.Is(err, volume.ErrNotFound):
		return err
	}
	if err := refuseOrphans(o); err != nil {
		return err
	}
	if err := initVolumesDir(o); err != nil {
		return err
	}
	return writeMarker(o)
}

// checkMarker compares the marker with what the configuration says.
func checkMarker(o Options) error {
	m, err := readMarker(o)
	if errors.Is(err, volume.ErrNotFound) {
		return fmt.Errorf("pool %q: directory %q has no %s: the file system may not be mounted; if it is and the pool is new, run `holdfast target init`: %w",
			o.Name, o.Dir, markerName, volume.ErrPrecondition)
	}
	if err != nil {
		return err
	}
	if m.Name != o.Name {
		return fmt.Errorf("directory %q: is pool %q, but is configured as pool %q: %w", o.Dir, m.Name, o.Name, volume.ErrPrecondition)
	}
	if m.Installation != o.Installation {
		return fmt.Errorf("pool %q: directory %q belongs to installation %q, this is installation %q: %w",
			o.Name, o.Dir, m.Installation, o.Installation, volume.ErrPrecondition)
	}
	return nil
}

func readMarker(o Options) (m marker, err error) {
	path := filepath.Join(o.Dir, markerName)
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("marker %q: %w", path, volume.ErrNotFound)
	}
	if err != nil {
		return m, fmt.Errorf("pool %q: %w", o.Name, err)
	}
	if !fi.Mode().IsRegular() {
		return m, fmt.Errorf("pool %q: marker %q must be a regular file: %w", o.Name, path, volume.ErrPrecondition)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return m, fmt.Errorf("pool %q: %w", o.Name, err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("pool %q: marker %q is not readable: %w: %w", o.Name, path, err, volume.ErrPrecondition)
	}
	return m, nil
}

func refuseOrphans(o Options) error {
	found, err := filepath.Glob(filepath.Join(escapeGlob(o.Dir), volumesDir, "*"+suffix))
	if err != nil {
		return fmt.Errorf("pool %q: %w", o.Name, err)
	}
	if len(found) > 0 {
		return fmt.Errorf("pool %q: directory %q has volume files (%q) but no %s; restore the marker or move the files away: %w",
			o.Name, o.Dir, found[0], markerName, volume.ErrPrecondition)
	}
	return nil
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

func initVolumesDir(o Options) error {
	err := os.Mkdir(filepath.Join(o.Dir, volumesDir), 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("pool %q: %w", o.Name, err)
	}
	if err := checkVolumesDir(o); err != nil {
		return err
	}
	return wholefile.SyncDir(o.Dir)
}

func writeMarker(o Options) error {
	b, err := json.MarshalIndent(marker{o.Name, o.Installation}, "", "  ")
	if err != nil {
		return fmt.Errorf("pool %q: marker: %w", o.Name, err)
	}
	if err := wholefile.Replace(filepath.Join(o.Dir, markerName), append(b, '\n'), 0o600, true); err != nil {
		return fmt.Errorf("pool %q: write the marker: %w", o.Name, err)
	}
	return nil
}
