// Package gatetest is a gate.Gate in memory, for tests. It drops no packets.
package gatetest

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/holdfast-csi/holdfast/internal/gate"
)

// Fake remembers which ports are closed. Use NewFake.
type Fake struct {
	mu     sync.Mutex
	closed map[uint16]bool
	events []string
	onOp   func(op string, port uint16) error
}

var _ gate.Gate = (*Fake)(nil)

// NewFake returns a gate with all ports open.
func NewFake() *Fake { return &Fake{closed: map[uint16]bool{}} }

// SetOnOp installs a hook that is called before each port is closed or opened
// (op is "close" or "open"), without locks held. Its error fails the call; the
// ports before stay done.
func (f *Fake) SetOnOp(hook func(op string, port uint16) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onOp = hook
}

// Close implements gate.Gate.
func (f *Fake) Close(ports ...uint16) error { return f.each("close", ports, true) }

// Open implements gate.Gate.
func (f *Fake) Open(ports ...uint16) error { return f.each("open", ports, false) }

func (f *Fake) each(op string, ports []uint16, closed bool) error {
	for _, port := range ports {
		f.mu.Lock()
		hook := f.onOp
		f.mu.Unlock()
		if hook != nil {
			if err := hook(op, port); err != nil {
				return fmt.Errorf("%s TCP port %d: %w", op, port, err)
			}
		}
		f.mu.Lock()
		if closed {
			f.closed[port] = true
		} else {
			delete(f.closed, port)
		}
		f.events = append(f.events, fmt.Sprintf("%s %d", op, port))
		f.mu.Unlock()
	}
	return nil
}

// Closed implements gate.Gate.
func (f *Fake) Closed() ([]uint16, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.closed)), nil
}

// IsClosed reports whether one port is closed.
func (f *Fake) IsClosed(port uint16) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed[port]
}

// Events returns what was done, as "close 4420" and "open 4420", in order.
func (f *Fake) Events() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.events)
}

// Reboot opens all ports, as a restart of the machine does.
func (f *Fake) Reboot() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.closed)
}
