package nvmesysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The control files of a controller (drivers/nvme/host/sysfs.c).
const (
	// DeleteController removes the controller and returns when it is gone,
	// which on a silent path may take as long as the admin time-out (60 s).
	// EBUSY until the controller has been live once.
	DeleteController = "delete_controller"
	// RescanController looks for namespaces; without effect unless live.
	RescanController = "rescan_controller"
	// ResetController reconnects; EBUSY while reconnecting already.
	ResetController = "reset_controller"
	// ReconnectDelay is in seconds, for the next attempt that is scheduled.
	ReconnectDelay = "reconnect_delay"
	// CtrlLossTmo is in seconds, -1 for ever. The kernel divides by the delay
	// of the moment.
	CtrlLossTmo = "ctrl_loss_tmo"
)

var controls = []string{DeleteController, RescanController, ResetController, ReconnectDelay, CtrlLossTmo}

// WriteControl writes one control file of a controller. It blocks for as long
// as the kernel does and cannot be cancelled. A reconnect_delay below 1 is
// refused: with 0 the kernel reconnects without any pause, and divides by it
// when ctrl_loss_tmo is written (6.1, 6.12).
func (f FS) WriteControl(controller, attr, value string) error {
	if !controllerName.MatchString(controller) {
		return fmt.Errorf("controller %q: not the name of a controller", controller)
	}
	if !slices.Contains(controls, attr) {
		return fmt.Errorf("controller %s: %q is not a control file", controller, attr)
	}
	if attr == ReconnectDelay && seconds(value) < 1 {
		return fmt.Errorf("controller %s: %s %q: want at least 1", controller, attr, value)
	}
	if f.control != nil {
		return f.control(controller, attr, value)
	}
	return write(filepath.Join(f.classDir(), controller, attr), value)
}

// SetDelayedRemoval says for how many seconds a disk outlives its last path,
// with its I/O held back (delayed_removal_secs, Linux 6.16 on). It is false where
// the kernel has no such setting, and when the disk is not there.
func (f FS) SetDelayedRemoval(disk string, seconds int) (bool, error) {
	if !diskName.MatchString(disk) {
		return false, nil
	}
	path := filepath.Join(f.Sys, "block", disk, "delayed_removal_secs")
	err := write(path, strconv.Itoa(seconds))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Inflight is how many reads and writes of a block device, also of a table of
// the device mapper, wait or are under way.
func (f FS) Inflight(disk string) (int, error) {
	text, err := attr(filepath.Join(f.Sys, "block", filepath.Base(disk)), "inflight")
	if err != nil {
		return 0, err
	}
	sum := 0
	for _, word := range strings.Fields(text) {
		n, err := strconv.Atoi(word)
		if err != nil {
			return 0, fmt.Errorf("inflight of %s: %w", disk, err)
		}
		sum += n
	}
	return sum, nil
}
