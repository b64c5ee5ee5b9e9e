package nvmettest

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
)

// Connectable reports whether a host can connect to a subsystem: it is on a
// listening port and the host is allowed.
func (k *Kernel) Connectable(nqn, hostNQN string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.connectable(nqn, hostNQN)
}

func (k *Kernel) connectable(nqn, hostNQN string) bool {
	s, err := k.root.find("subsystems/" + nqn)
	if err != nil || !k.onPort(s) {
		return false
	}
	_, allowed := s.dirs["allowed_hosts"].links[hostNQN]
	return allowed || s.attrs["attr_allow_any_host"] == "1"
}

// OnPort reports whether a subsystem is on a listening port. When it is, a
// host that finds anything missing gives up for good.
func (k *Kernel) OnPort(nqn string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, err := k.root.find("subsystems/" + nqn)
	return err == nil && k.onPort(s)
}

func (k *Kernel) onPort(s *node) bool {
	for name, port := range k.root.dirs["ports"].dirs {
		if _, on := k.listening[name]; !on {
			continue
		}
		for _, linked := range port.dirs["subsystems"].links {
			if linked == s {
				return true
			}
		}
	}
	return false
}

// Visible returns the namespaces a host sees in a subsystem now, by NSID;
// none when it cannot connect.
func (k *Kernel) Visible(nqn, hostNQN string) []nvmet.Namespace {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.connectable(nqn, hostNQN) {
		return nil
	}
	return k.namespaces(nqn)
}

// Enabled returns the enabled namespaces of a subsystem by NSID, whether or
// not a host can see them.
func (k *Kernel) Enabled(nqn string) []nvmet.Namespace {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.namespaces(nqn)
}

func (k *Kernel) namespaces(nqn string) []nvmet.Namespace {
	s, err := k.root.find("subsystems/" + nqn)
	if err != nil {
		return nil
	}
	var list []nvmet.Namespace
	for name, n := range s.dirs["namespaces"].dirs {
		nsid, err := strconv.ParseUint(name, 0, 32)
		if err != nil || !n.enabled() {
			continue
		}
		ns := nvmet.Namespace{NSID: uint32(nsid), Path: n.attrs["device_path"]}
		ns.UUID, _ = uuid.Parse(n.attrs["device_uuid"])
		ns.NGUID, _ = uuid.Parse(n.attrs["device_nguid"])
		list = append(list, ns)
	}
	slices.SortFunc(list, func(a, b nvmet.Namespace) int { return int(int64(a.NSID) - int64(b.NSID)) })
	return list
}

// Listening returns the sockets the target listens on, in order.
func (k *Kernel) Listening() []netip.AddrPort {
	k.mu.Lock()
	defer k.mu.Unlock()
	var list []netip.AddrPort
	for _, socket := range k.listening {
		list = append(list, socket)
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return list
}

// Dump returns every directory, attribute and link as "path" or "path=value",
// in order, for comparing whole states.
func (k *Kernel) Dump() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	lines := dump(k.root, "")
	slices.Sort(lines)
	return lines
}

func dump(n *node, prefix string) []string {
	var lines []string
	for name, text := range n.attrs {
		lines = append(lines, prefix+name+"="+text)
	}
	for name := range n.links {
		lines = append(lines, prefix+name+"@")
	}
	for name, c := range n.dirs {
		lines = append(lines, prefix+name+"/")
		lines = append(lines, dump(c, prefix+name+"/")...)
	}
	return lines
}
