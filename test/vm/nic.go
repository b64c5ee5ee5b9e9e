//go:build linux

package vm

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/holdfast-csi/holdfast/test/vm/internal/lan"
)

// NIC is a machine's network card with the cable to its switch. Faults belong to the cable: they hold through reboots.
type NIC struct {
	machine *Machine
	id      string
	mac     string
	lan     string
	addr    netip.Prefix
	port    *lan.Port
}

func newNIC(m *Machine, i int, a LANAddress, port *lan.Port) *NIC {
	return &NIC{
		machine: m, id: fmt.Sprintf("lan%d", i), mac: fmt.Sprintf("52:54:00:00:%02x:%02x", m.number, i),
		lan: a.LAN, addr: netip.MustParsePrefix(a.Addr), port: port,
	}
}

// Addr returns the card's address.
func (n *NIC) Addr() netip.Addr { return n.addr.Addr() }

// Unplug pulls the cable: the machine sees its carrier go.
func (n *NIC) Unplug() error {
	n.port.Unplug()
	return n.setLink(false)
}

// Plug puts the cable back.
func (n *NIC) Plug() error {
	n.port.Plug()
	return n.setLink(true)
}

// setLink tells QEMU, if there is one; a machine that is off learns at its next boot.
func (n *NIC) setLink(up bool) error {
	s, err := n.machine.current()
	if err != nil || !s.running() {
		return nil //nolint:nilerr // see above
	}
	if err := s.qemu.SetLink(context.Background(), n.id, up); err != nil {
		return fmt.Errorf("cable %s of machine %s: %w", n.id, n.machine.cfg.Name, err)
	}
	return nil
}

// Drop loses every frame of both directions while the carrier stays.
func (n *NIC) Drop() { n.port.Drop() }

// DropFrom loses what the machine sends; it still hears the others.
func (n *NIC) DropFrom() { n.port.DropFrom() }

// DropTo loses what is sent to the machine; the others still hear it.
func (n *NIC) DropTo() { n.port.DropTo() }

// Delay holds every frame of either direction for d, give or take jitter: a round trip takes 2d longer.
func (n *NIC) Delay(d, jitter time.Duration) { n.port.Delay(d, jitter) }

// Loss loses the given share (0 to 1) of the frames of either direction, by chance from seed.
func (n *NIC) Loss(share float64, seed uint64) { n.port.Loss(share, seed) }

// Heal ends all faults of the cable.
func (n *NIC) Heal() error {
	unplugged := n.port.Unplugged()
	n.port.Heal()
	if !unplugged {
		return nil
	}
	return n.setLink(true)
}
