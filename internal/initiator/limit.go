package initiator

import (
	"errors"
	"strconv"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

// Limit makes the kernel give up each controller of a session that is away for so
// many seconds: it counts attempts, with the delay of the moment.
func (h *Host) Limit(nqn string, seconds int) error {
	controllers, err := h.ours(nqn)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range controllers {
		if !c.Ending() {
			errs = append(errs, h.fs.WriteControl(c.Name, nvmesysfs.CtrlLossTmo, strconv.Itoa(seconds)))
		}
	}
	return errors.Join(errs...)
}
