package nodetest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/holdfast-csi/holdfast/internal/initiator"
)

// path is one controller of a session.
type path struct {
	portal netip.AddrPort
	name   string
}

// Portal is another address of the storage host: that of Publish is the first.
func Portal(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + n)}), 4420)
}

// SetDark makes nothing answer at a portal, or something again.
func (m *Machine) SetDark(p netip.AddrPort, dark bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dark[p] = dark
	m.refresh()
	m.notify()
}

// Paths returns "CONTROLLER PORTAL" for each controller of a session.
func (m *Machine) Paths(nqn string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refresh()
	var out []string
	if s := m.sessions[nqn]; s != nil {
		for _, p := range s.paths {
			out = append(out, p.name+" "+p.portal.String())
		}
	}
	return out
}

// The rest must be called with mu held, but for Retire.

func (m *Machine) allDark(list []netip.AddrPort) bool {
	return !slices.ContainsFunc(list, func(p netip.AddrPort) bool { return !m.dark[p] })
}

// lit says whether a controller of s reaches anything.
func (m *Machine) lit(s *link) bool {
	return slices.ContainsFunc(s.paths, func(p path) bool { return !m.dark[p.portal] })
}

// covered says whether each portal of s has a controller.
func (*Machine) covered(have *link, s initiator.Session) bool {
	return !slices.ContainsFunc(s.Portals, func(p netip.AddrPort) bool { return !have.at(p) })
}

func (l *link) at(p netip.AddrPort) bool {
	return slices.ContainsFunc(l.paths, func(x path) bool { return x.portal == p })
}

func (m *Machine) addPaths(l *link, s initiator.Session) {
	for _, p := range s.Portals {
		if l.at(p) || m.dark[p] {
			continue
		}
		name := fmt.Sprintf("nvme%d", l.number)
		for i := 1; slices.ContainsFunc(l.paths, func(x path) bool { return x.name == name }); i++ {
			name = fmt.Sprintf("nvme%d", l.number+100*i)
		}
		l.paths = append(l.paths, path{p, name})
	}
	m.refresh()
	m.notify()
}

// Retire implements node.Options.Fabric.
func (p *Process) Retire(_ context.Context, s initiator.Session) error {
	return p.step("Retire", func() error { p.m.retire(s); return nil }, nil)
}

func (m *Machine) retire(s initiator.Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	gone := initiator.Excess(m.snapshot(s.NQN).Controllers, s)
	l := m.sessions[s.NQN]
	if l == nil {
		return
	}
	for _, c := range gone {
		l.paths = slices.DeleteFunc(l.paths, func(x path) bool { return x.name == c.Name })
	}
	if len(l.paths) == 0 {
		m.end(s.NQN)
	}
	m.refresh()
	m.notify()
}

// limit makes the kernel give a session up that is away now.
func (m *Machine) limit(nqn string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refresh()
	m.limited[nqn] = true
	if s := m.sessions[nqn]; s != nil && s.state != "live" {
		m.end(nqn)
		m.notify()
	}
}

// Limited says whether a session gives up once it is away.
func (m *Machine) Limited(nqn string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.limited[nqn]
}
