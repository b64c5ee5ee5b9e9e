package watch

import (
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

// eagerDelay is the reconnect delay of an eager session, in seconds. Zero would
// make the kernel spin, and divide by zero at the next write of ctrl_loss_tmo.
const eagerDelay = 1

// finiteLoss is how long a session may be away, in seconds, once the machine is
// going down.
const finiteLoss = 2

// setting is one attribute of a controller to be written.
type setting struct {
	controller, attribute string
	value                 int
}

// settings compares the delays that the kernel has with those wanted. The kernel
// keeps ctrl_loss_tmo as a number of attempts computed with the delay of that
// moment, so a change of the delay is followed by writing it again: otherwise
// 600 s set at delay 5 would be over after 120 s at delay 1. It is compared too,
// because that second write may have failed, and because a session that was
// adopted has whatever somebody gave it.
func settings(controllers []nvmesysfs.Controller, config nvme.ConnectionConfig, eager bool) []setting {
	delay, loss := config.ReconnectDelay, config.CtrlLossTmo
	if eager {
		delay = eagerDelay
	}
	if delay <= 0 {
		return nil
	}
	var out []setting
	for _, c := range controllers {
		if c.State != "live" && c.State != "connecting" && c.State != "resetting" {
			continue
		}
		if c.ReconnectDelay != delay {
			out = append(out, setting{c.Name, nvmesysfs.ReconnectDelay, delay})
		}
		if loss != 0 && c.CtrlLossTmo != shownLoss(loss, delay) || loss > 0 && c.ReconnectDelay != delay {
			out = append(out, setting{c.Name, nvmesysfs.CtrlLossTmo, loss})
		}
	}
	return out
}

// shownLoss is what the kernel shows after ctrl_loss_tmo was written: attempts,
// rounded up, times the delay; -1 for ever.
func shownLoss(loss, delay int) int {
	if loss < 0 {
		return -1
	}
	return (loss + delay - 1) / delay * delay
}
