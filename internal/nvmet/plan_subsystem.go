package nvmet

import (
	"fmt"
	"maps"
	"slices"
)

func namespaceObject(nqn string, nsid uint32) string {
	return fmt.Sprintf("namespace %s/%d", nqn, nsid)
}

// removeSubsystems takes the absent subsystems apart. Their links to ports are
// gone by then, so no host is connected to them any more.
func (p *planner) removeSubsystems() {
	for _, nqn := range p.desired.Absent {
		st, there := p.actual.Subsystems[nqn]
		if !there {
			continue
		}
		for _, nsid := range slices.Sorted(maps.Keys(st.Namespaces)) {
			p.removeNamespace(nqn, st.Namespaces[nsid])
		}
		for _, host := range st.AllowedHosts {
			p.add(OpUnlink, allowedHostPath(nqn, host), "subsystem "+nqn)
		}
		p.add(OpRmdir, subsystemPath(nqn), "subsystem "+nqn)
	}
	done := map[string]bool{}
	for _, nqn := range p.desired.Absent {
		for _, host := range p.actual.Subsystems[nqn].AllowedHosts {
			if !done[host] && !p.hostUsed(host) {
				done[host] = true
				p.add(OpRmdir, hostPath(host), "host "+host)
			}
		}
	}
}

// hostUsed reports whether a desired or remaining subsystem names the host.
// Subsystems not observed may use it as well; the kernel then refuses to
// remove it, which Apply tolerates.
func (p *planner) hostUsed(host string) bool {
	for _, s := range p.desired.Subsystems {
		if s.HostNQN == host {
			return true
		}
	}
	for nqn, st := range p.actual.Subsystems {
		if !p.absent[nqn] && slices.Contains(st.AllowedHosts, host) {
			return true
		}
	}
	return false
}

// removeNamespace does not write 0 to enable first. Both ways make the
// namespace disappear at once and then wait for its I/O, but the write does so
// with the lock of the whole target held (since Linux 6.10, and in the stable
// releases of mid-2024 and later): while one backing device hangs, no host could
// connect to anything. Removing the directory blocks only its siblings.
func (p *planner) removeNamespace(nqn string, st NamespaceState) {
	p.add(OpRmdir, namespacePath(nqn, st.NSID), namespaceObject(nqn, st.NSID))
}

func (p *planner) subsystem(want Subsystem) error {
	st, there := p.actual.Subsystems[want.NQN]
	if there && p.linked(want.NQN) {
		if err := st.mustMatch(want); err != nil {
			return err
		}
	}
	path, object := subsystemPath(want.NQN), "subsystem "+want.NQN
	if !there {
		p.add(OpMkdir, path, object)
	}
	if !there || st.AllowAnyHost {
		p.write(path+"/attr_allow_any_host", disabled, object)
	}
	if want.Serial != "" && st.Serial != want.Serial {
		p.write(path+"/attr_serial", want.Serial, object)
	}
	if want.Model != "" && st.Model != want.Model {
		p.write(path+"/attr_model", want.Model, object)
	}
	if err := p.namespaces(want, st); err != nil {
		return err
	}
	p.allowedHosts(want, st)
	return nil
}

// linked reports whether hosts may be connected to the subsystem: it is on
// some observed port now.
func (p *planner) linked(nqn string) bool {
	for _, port := range p.actual.Ports {
		if slices.Contains(port.Links, nqn) {
			return true
		}
	}
	return false
}

// mustMatch refuses to give a subsystem that hosts may be connected to another
// identity, or to another host: dropping a host's permission does not drop its
// connections, so the old host could go on writing.
func (s SubsystemState) mustMatch(want Subsystem) error {
	differs := func(what, found, wanted string) error {
		return fmt.Errorf("%w: linked subsystem %s: %s: wanted %q, found %q", ErrForeign, want.NQN, what, wanted, found)
	}
	if want.Serial != "" && s.Serial != want.Serial {
		return differs("serial", s.Serial, want.Serial)
	}
	if want.Model != "" && s.Model != want.Model {
		return differs("model", s.Model, want.Model)
	}
	for _, host := range s.AllowedHosts {
		if host != want.HostNQN {
			return differs("allowed host", host, want.HostNQN)
		}
	}
	return nil
}

// namespaces withdraws what is not desired before it shows anything new: the
// same data may come back under another NSID, and hosts refuse two namespaces
// of one identity.
func (p *planner) namespaces(want Subsystem, st SubsystemState) error {
	keep := map[uint32]bool{}
	for _, ns := range want.Namespaces {
		keep[ns.NSID] = true
	}
	for _, nsid := range slices.Sorted(maps.Keys(st.Namespaces)) {
		if !keep[nsid] {
			p.removeNamespace(want.NQN, st.Namespaces[nsid])
		}
	}
	for _, ns := range want.Namespaces {
		have, there := st.Namespaces[ns.NSID]
		if err := p.namespace(want.NQN, ns, have, there); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) namespace(nqn string, want Namespace, have NamespaceState, there bool) error {
	path, object := namespacePath(nqn, want.NSID), namespaceObject(nqn, want.NSID)
	if have.Enabled {
		if have.Namespace != want {
			return fmt.Errorf("%w: enabled %s: wanted %s, found %s", ErrForeign, object, want, have.Namespace)
		}
		return nil
	}
	if !there {
		p.add(OpMkdir, path, object)
	}
	if have.Path != want.Path {
		p.write(path+"/device_path", want.Path, object)
	}
	if have.UUID != want.UUID {
		p.write(path+"/device_uuid", want.UUID.String(), object)
	}
	// A new namespace has a random UUID but no NGUID.
	if have.NGUID != want.NGUID {
		p.write(path+"/device_nguid", want.NGUID.String(), object)
	}
	p.write(path+"/enable", enabled, object)
	return nil
}

// String returns what tells this namespace from another.
func (n Namespace) String() string {
	return fmt.Sprintf("%s (uuid %s, nguid %s)", n.Path, n.UUID, n.NGUID)
}

func (p *planner) allowedHosts(want Subsystem, st SubsystemState) {
	object := "subsystem " + want.NQN
	for _, host := range st.AllowedHosts {
		if host != want.HostNQN {
			p.add(OpUnlink, allowedHostPath(want.NQN, host), object)
		}
	}
	if !slices.Contains(st.AllowedHosts, want.HostNQN) {
		p.link(hostPath(want.HostNQN), allowedHostPath(want.NQN, want.HostNQN), object)
	}
}
