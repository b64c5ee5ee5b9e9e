package nvmesysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"time"
)

func (f FS) parameterDir() string { return filepath.Join(f.Sys, "module", "nvme_core", "parameters") }

// MultipathEnabled says whether native multipath is on (parameter of the module
// nvme_core). False if the module is not there, or was built without it.
func (f FS) MultipathEnabled() (bool, error) {
	v, err := attr(f.parameterDir(), "multipath")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return v == "Y", err
}

// AdminTimeout is how long the kernel waits for the answer to an admin command
// that begins now, on any controller of the machine (parameter admin_timeout of
// the module nvme_core, in seconds).
func (f FS) AdminTimeout() (time.Duration, error) {
	v, err := attr(f.parameterDir(), adminTimeout)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s: %q: %w", adminTimeout, v, err)
	}
	return time.Duration(n) * time.Second, nil
}

// SetAdminTimeout changes it: whole seconds, at least one.
func (f FS) SetAdminTimeout(d time.Duration) error {
	if d < time.Second || d%time.Second != 0 {
		return fmt.Errorf("%s %s: want whole seconds, at least one", adminTimeout, d)
	}
	return write(filepath.Join(f.parameterDir(), adminTimeout), strconv.Itoa(int(d/time.Second)))
}

const adminTimeout = "admin_timeout"
