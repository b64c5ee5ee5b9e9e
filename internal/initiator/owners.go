package initiator

import (
	"net/netip"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

// claim tells others that the controller that was just made at portal is ours.
// Which it is only sysfs says; one that is gone again needs no word.
func (h *Host) claim(nqn string, portal netip.AddrPort) {
	if h.owners == nil {
		return
	}
	controllers, _ := h.fs.ControllersOf(nqn)
	for _, c := range controllers {
		if at, ok := c.Portal(); ok && at == plain(portal) && !c.Ending() && h.isOurs(c) {
			h.owners.Claim(c.Name)
		}
	}
}

// Own tells others which of the machine's controllers are ours: those of an
// earlier process too, and no longer those that are gone.
func (h *Host) Own() {
	if h.owners == nil || h.hostNQN == "" {
		return
	}
	h.owners.Keep(func() (map[string]bool, error) {
		all, err := h.fs.Controllers()
		ours := map[string]bool{}
		for _, c := range all {
			ours[c.Name] = h.isOurs(c)
		}
		return ours, err
	})
}

// isOurs is false for a controller that does not say who connected it.
func (h *Host) isOurs(c nvmesysfs.Controller) bool {
	return c.HostNQN != "" && strings.EqualFold(h.hostNQN, c.HostNQN)
}
