package nvmet

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// Observe reads the named subsystems and ports, and nothing else: what it
// costs does not depend on how many others there are. Missing ones are simply
// not in the result. Links of the subsystems to ports not named go unseen.
func Observe(t Tree, nqns []string, portIDs []uint16) (State, error) {
	st := State{
		Ports:      map[uint16]PortState{},
		Subsystems: map[string]SubsystemState{},
		Hosts:      map[string]bool{},
	}
	for _, nqn := range nqns {
		if err := checkNQN(nqn); err != nil {
			return State{}, err
		}
		s, err := observeSubsystem(t, nqn)
		if gone(err) {
			continue
		}
		if err != nil {
			return State{}, fmt.Errorf("observe subsystem %s: %w", nqn, err)
		}
		st.Subsystems[nqn] = s
		for _, host := range s.AllowedHosts {
			st.Hosts[host] = true
		}
	}
	for _, id := range portIDs {
		p, err := observePort(t, id)
		if gone(err) {
			continue
		}
		if err != nil {
			return State{}, fmt.Errorf("observe port %d: %w", id, err)
		}
		st.Ports[id] = p
	}
	return st, nil
}

// ObserveOwned reads all subsystems whose NQN begins with prefix and the ports
// linked to at least one of them. It lists every port of the target; use it at
// start, and Observe from then on.
func ObserveOwned(t Tree, prefix string) (State, error) {
	names, err := t.ReadDir(dirSubsystems)
	if err != nil {
		return State{}, fmt.Errorf("list subsystems: %w", err)
	}
	foreign := func(nqn string) bool { return !strings.HasPrefix(nqn, prefix) }
	nqns := slices.DeleteFunc(names, foreign)
	ports, err := t.ReadDir(dirPorts)
	if err != nil {
		return State{}, fmt.Errorf("list ports: %w", err)
	}
	var ids []uint16
	for _, name := range ports {
		id, ok := canonical(name, 16)
		if !ok {
			continue // made by hand: we never name ports like this
		}
		links, err := t.ReadDir(dirPorts + "/" + name + "/subsystems")
		if err != nil && !gone(err) {
			return State{}, fmt.Errorf("list links of port %s: %w", name, err)
		}
		if slices.ContainsFunc(links, func(nqn string) bool { return !foreign(nqn) }) {
			ids = append(ids, uint16(id))
		}
	}
	return Observe(t, nqns, ids)
}

func observePort(t Tree, id uint16) (PortState, error) {
	p := PortState{ID: id}
	r := reader{tree: t, dir: portPath(id)}
	p.TrType = r.attr("addr_trtype")
	p.AdrFam = r.attr("addr_adrfam")
	p.TrAddr = r.attr("addr_traddr")
	p.TrSvcID = r.attr("addr_trsvcid")
	p.Links = r.list("subsystems")
	return p, r.err
}

func observeSubsystem(t Tree, nqn string) (SubsystemState, error) {
	s := SubsystemState{NQN: nqn, Namespaces: map[uint32]NamespaceState{}}
	r := reader{tree: t, dir: subsystemPath(nqn)}
	s.AllowAnyHost = r.attr("attr_allow_any_host") == "1"
	s.Serial = field(r.attr("attr_serial"), maxSerial)
	s.Model = field(r.attr("attr_model"), maxModel)
	s.AllowedHosts = r.list("allowed_hosts")
	names := r.list("namespaces")
	if r.err != nil {
		return s, r.err
	}
	for _, name := range names {
		nsid, ok := canonical(name, 32)
		if !ok {
			return s, fmt.Errorf("%w: namespace directory %q", ErrForeign, name)
		}
		ns, err := observeNamespace(t, nqn, uint32(nsid))
		if gone(err) {
			continue
		}
		if err != nil {
			return s, fmt.Errorf("namespace %d: %w", nsid, err)
		}
		s.Namespaces[ns.NSID] = ns
	}
	return s, nil
}

// field undoes what the kernel does to a fixed-size field: it fills it up with
// spaces, and older kernels print what lies behind it as well.
func field(text string, size int) string {
	return strings.TrimRight(text[:min(len(text), size)], " ")
}

func observeNamespace(t Tree, nqn string, nsid uint32) (NamespaceState, error) {
	ns := NamespaceState{Namespace: Namespace{NSID: nsid}}
	r := reader{tree: t, dir: namespacePath(nqn, nsid)}
	ns.Enabled = r.attr("enable") == "1"
	ns.Path = r.attr("device_path")
	ns.UUID = r.id("device_uuid")
	ns.NGUID = r.id("device_nguid")
	return ns, r.err
}

// canonical accepts decimal numbers as we write them. The kernel also takes
// other spellings ("0x1", "01") as directory names.
func canonical(name string, bits int) (uint64, bool) {
	n, err := strconv.ParseUint(name, 10, bits)
	return n, err == nil && strconv.FormatUint(n, 10) == name
}

// reader reads from one directory and keeps the first error.
type reader struct {
	tree Tree
	dir  string
	err  error
}

func (r *reader) attr(name string) string {
	if r.err != nil {
		return ""
	}
	var text string
	text, r.err = r.tree.ReadFile(r.dir + "/" + name)
	return value(text)
}

func (r *reader) id(name string) uuid.UUID {
	text := r.attr(name)
	if r.err != nil {
		return uuid.Nil
	}
	id, err := uuid.Parse(text)
	if err != nil {
		r.err = fmt.Errorf("%s/%s: %q: %w", r.dir, name, text, err)
	}
	return id
}

func (r *reader) list(name string) []string {
	if r.err != nil {
		return nil
	}
	var names []string
	names, r.err = r.tree.ReadDir(r.dir + "/" + name)
	slices.Sort(names)
	return names
}
