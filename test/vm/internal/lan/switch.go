// Package lan is an Ethernet switch in user space for virtual machines, with faults on demand.
//
// A port speaks the framing of QEMU's stream netdev: four bytes of big-endian length, then the frame. Ports belong to the
// network and outlive what is plugged into them: a fault set on a port holds through a reboot of the machine behind it.
// Nothing here blocks on a slow machine: a full queue drops, as a switch does. There are no VLANs, no spanning tree and no
// ageing of addresses; do not build loops.
package lan

import (
	"sync"
)

// Broadcast and multicast destinations have the lowest bit of the first byte set.
const groupBit = 1

const (
	addressLen = 6
	minFrame   = 2 * addressLen
	// maxFrame is far above any MTU in use; a longer length means that the stream is out of step.
	maxFrame = 128 << 10
)

type address [addressLen]byte

// Switch connects ports. The zero value is not usable; see New.
type Switch struct {
	mu    sync.Mutex
	ports []*Port           // guarded by mu
	known map[address]*Port // guarded by mu; where a source address was last seen
}

// New returns a switch without ports.
func New() *Switch {
	return &Switch{known: make(map[address]*Port)}
}

// AddPort adds a port with nothing plugged in.
func (s *Switch) AddPort() *Port {
	p := &Port{sw: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports = append(s.ports, p)
	return p
}

// forward sends a frame that came in at from to where it belongs. Several ports may be given the same slice; none writes
// to it.
func (s *Switch) forward(from *Port, frame []byte) {
	if len(frame) < minFrame {
		return
	}
	dst, src := address(frame[:addressLen]), address(frame[addressLen:minFrame])
	s.mu.Lock()
	defer s.mu.Unlock()
	if src[0]&groupBit == 0 {
		s.known[src] = from
	}
	if to, ok := s.known[dst]; ok && dst[0]&groupBit == 0 {
		if to != from {
			to.deliver(frame)
		}
		return
	}
	for _, p := range s.ports {
		if p != from {
			p.deliver(frame)
		}
	}
}
