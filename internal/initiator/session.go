package initiator

import (
	"fmt"
	"net/netip"

	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

// Session is the connection of this node to one subsystem, over one or more
// portals.
type Session struct {
	NQN             string
	HostNQN, HostID string
	Portals         []netip.AddrPort
	Config          nvme.ConnectionConfig
}

// Targets returns one target a portal, in their order.
func (s Session) Targets() []nvme.Target {
	out := make([]nvme.Target, len(s.Portals))
	for i, p := range s.Portals {
		out[i] = s.target(p)
	}
	return out
}

func (s Session) target(p netip.AddrPort) nvme.Target {
	return nvme.Target{
		Transport: "tcp", NQN: s.NQN, TargetAddress: p.Addr().Unmap().String(), TargetPort: int(p.Port()),
		HostNQN: s.HostNQN, HostID: s.HostID,
	}
}

func (s Session) validate() error {
	if len(s.Portals) == 0 {
		return fmt.Errorf("session %s: no portal: %w", s.NQN, volume.ErrInvalid)
	}
	for _, t := range s.Targets() {
		if err := t.Validate(); err != nil {
			return fmt.Errorf("session %s: %w: %w", s.NQN, volume.ErrInvalid, err)
		}
	}
	return nil
}
