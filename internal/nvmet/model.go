package nvmet

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

var (
	// ErrForeign means that an object under a name of ours is not what we
	// would have made, and changing it could hurt a connected host.
	ErrForeign = fmt.Errorf("%w: target object differs from its record", volume.ErrPrecondition)
	// ErrPortTaken means that a port directory is in use with other
	// attributes than the desired ones.
	ErrPortTaken = fmt.Errorf("%w: target port is taken", volume.ErrPrecondition)
	// ErrDesired means that a Desired contradicts itself or cannot be
	// expressed in configfs.
	ErrDesired = errors.New("invalid desired target state")
)

// Port is one listening socket. ID is the directory name and means nothing on
// the wire.
type Port struct {
	ID      uint16
	Address netip.Addr
	TCPPort uint16
}

// String returns what the port listens on.
func (p Port) String() string {
	return "tcp " + netip.AddrPortFrom(p.Address.Unmap(), p.TCPPort).String()
}

// Namespace is one backing device shown to a host. UUID and NGUID are what the
// host tells devices apart by: they must be the same wherever and whenever the
// same data is shown.
type Namespace struct {
	NSID        uint32
	Path        string
	UUID, NGUID uuid.UUID
}

// Subsystem is what one host connects to, on one port. Serial and Model are
// left to the kernel's defaults when empty.
type Subsystem struct {
	NQN, Serial, Model, HostNQN string
	PortID                      uint16
	Namespaces                  []Namespace
}

// Desired is what should be and what should not. Objects named in neither
// way are left alone, except namespaces, allowed hosts and observed port links
// of the subsystems listed, which are meant to be complete.
type Desired struct {
	Ports      []Port
	Subsystems []Subsystem
	// Absent are NQNs that must not exist.
	Absent []string
	// AbsentPorts are removed when nothing is linked to them.
	AbsentPorts []uint16
}

// State is what has been observed.
type State struct {
	Ports      map[uint16]PortState
	Subsystems map[string]SubsystemState
	// Hosts holds the hosts known to exist: those allowed by an observed
	// subsystem. The target may have more.
	Hosts map[string]bool
}

// PortState is an observed port, with the attributes as printed.
type PortState struct {
	ID                              uint16
	TrType, AdrFam, TrAddr, TrSvcID string
	// Links are the NQNs linked, in byte order.
	Links []string
}

// String returns what the port listens on, or would.
func (p PortState) String() string {
	return fmt.Sprintf("%s %s [%s]:%s", orUnset(p.TrType), orUnset(p.AdrFam), p.TrAddr, p.TrSvcID)
}

// SubsystemState is an observed subsystem.
type SubsystemState struct {
	NQN, Serial, Model string
	AllowAnyHost       bool
	Namespaces         map[uint32]NamespaceState
	// AllowedHosts are host NQNs, in byte order.
	AllowedHosts []string
}

// NamespaceState is an observed namespace.
type NamespaceState struct {
	Namespace
	Enabled bool
}

func orUnset(s string) string {
	if s == "" {
		return "(unset)"
	}
	return s
}

// matches reports whether the port directory holds the wanted attributes.
func (p PortState) matches(want Port) bool {
	addr, err := netip.ParseAddr(p.TrAddr)
	if err != nil {
		return false
	}
	tcp, err := strconv.ParseUint(p.TrSvcID, 10, 16)
	return err == nil && p.TrType == trTypeTCP && p.AdrFam == adrFam(want.Address) &&
		addr.Unmap() == want.Address.Unmap() && uint16(tcp) == want.TCPPort
}

const trTypeTCP = "tcp"

func adrFam(a netip.Addr) string {
	if a.Unmap().Is4() {
		return "ipv4"
	}
	return "ipv6"
}

const (
	dirHosts      = "hosts"
	dirPorts      = "ports"
	dirSubsystems = "subsystems"
)

func hostPath(nqn string) string      { return dirHosts + "/" + nqn }
func subsystemPath(nqn string) string { return dirSubsystems + "/" + nqn }
func portPath(id uint16) string       { return dirPorts + "/" + strconv.FormatUint(uint64(id), 10) }

func portLinkPath(id uint16, nqn string) string {
	return portPath(id) + "/subsystems/" + nqn
}

func allowedHostPath(nqn, host string) string {
	return subsystemPath(nqn) + "/allowed_hosts/" + host
}

func namespacePath(nqn string, nsid uint32) string {
	return subsystemPath(nqn) + "/namespaces/" + strconv.FormatUint(uint64(nsid), 10)
}
