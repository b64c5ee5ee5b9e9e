package nvmet

import (
	"fmt"
	"math"
	"net/netip"
	"path"
	"strings"

	"github.com/google/uuid"
)

// Sizes of the fields on the wire, in bytes.
const (
	maxNQN    = 223
	maxSerial = 20
	maxModel  = 40
)

// validate refuses what could not be applied, or would be applied to something
// else than meant, before any step is planned.
func (d Desired) validate(actual State) error {
	ports, err := d.validatePorts()
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, nqn := range d.Absent {
		if err := checkNQN(nqn); err != nil {
			return err
		}
		seen[nqn] = true
	}
	for _, s := range d.Subsystems {
		if seen[s.NQN] {
			return fmt.Errorf("%w: subsystem %s is listed twice or also absent", ErrDesired, s.NQN)
		}
		seen[s.NQN] = true
		if err := s.validate(); err != nil {
			return err
		}
		_, there := actual.Ports[s.PortID]
		wanted, listed := ports[s.PortID]
		if listed && !wanted || !listed && !there {
			return fmt.Errorf("%w: subsystem %s needs port %d, which is absent", ErrDesired, s.NQN, s.PortID)
		}
	}
	return nil
}

// validatePorts returns the listed ports: true for wanted, false for absent.
func (d Desired) validatePorts() (map[uint16]bool, error) {
	ports := map[uint16]bool{}
	sockets := map[netip.AddrPort]uint16{}
	for _, p := range d.Ports {
		if ports[p.ID] {
			return nil, fmt.Errorf("%w: port %d is listed twice", ErrDesired, p.ID)
		}
		ports[p.ID] = true
		if !p.Address.IsValid() || p.TCPPort == 0 {
			return nil, fmt.Errorf("%w: port %d: no address or TCP port", ErrDesired, p.ID)
		}
		socket := netip.AddrPortFrom(p.Address.Unmap(), p.TCPPort)
		if other, dup := sockets[socket]; dup {
			return nil, fmt.Errorf("%w: ports %d and %d both listen on %s", ErrDesired, other, p.ID, socket)
		}
		sockets[socket] = p.ID
	}
	for _, id := range d.AbsentPorts {
		if ports[id] {
			return nil, fmt.Errorf("%w: port %d is both wanted and absent", ErrDesired, id)
		}
		ports[id] = false
	}
	return ports, nil
}

func (s Subsystem) validate() error {
	if err := checkNQN(s.NQN); err != nil {
		return err
	}
	if err := checkNQN(s.HostNQN); err != nil {
		return fmt.Errorf("subsystem %s: host: %w", s.NQN, err)
	}
	if err := checkText("serial", s.Serial, maxSerial); err != nil {
		return fmt.Errorf("subsystem %s: %w", s.NQN, err)
	}
	if err := checkText("model", s.Model, maxModel); err != nil {
		return fmt.Errorf("subsystem %s: %w", s.NQN, err)
	}
	nsids, ids := map[uint32]bool{}, map[uuid.UUID]bool{}
	for _, ns := range s.Namespaces {
		if ns.NSID == 0 || ns.NSID == math.MaxUint32 || nsids[ns.NSID] {
			return fmt.Errorf("%w: subsystem %s: namespace %d is reserved or listed twice", ErrDesired, s.NQN, ns.NSID)
		}
		// A host refuses a second namespace with the identity of another.
		if ns.UUID == uuid.Nil || ids[ns.UUID] {
			return fmt.Errorf("%w: namespace %s/%d: UUID %s is nil or used twice", ErrDesired, s.NQN, ns.NSID, ns.UUID)
		}
		if !path.IsAbs(ns.Path) || strings.ContainsAny(ns.Path, "\n\x00") {
			return fmt.Errorf("%w: namespace %s/%d: path %q", ErrDesired, s.NQN, ns.NSID, ns.Path)
		}
		nsids[ns.NSID], ids[ns.UUID] = true, true
	}
	return nil
}

// checkNQN also keeps a name from leaving its directory.
func checkNQN(nqn string) error {
	bad := strings.IndexFunc(nqn, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' })
	if nqn == "" || nqn == "." || nqn == ".." || len(nqn) > maxNQN || bad >= 0 {
		return fmt.Errorf("%w: NQN %q", ErrDesired, nqn)
	}
	return nil
}

func checkText(what, s string, limit int) error {
	bad := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
	if len(s) > limit || bad >= 0 || strings.HasSuffix(s, " ") {
		return fmt.Errorf("%w: %s %q (at most %d ASCII characters, no space at the end)", ErrDesired, what, s, limit)
	}
	return nil
}
