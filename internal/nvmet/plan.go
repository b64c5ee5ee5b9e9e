package nvmet

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
)

const (
	enabled  = "1"
	disabled = "0"
)

// Plan returns the steps from actual to d, in the only order that is legal for
// the kernel and safe for connected hosts:
//
//	unlink from ports, take absent subsystems apart, remove ports
//	ports, hosts, subsystems with all their namespaces, allowed hosts
//	link to ports
//
// It is a pure function. A plan that would change what an enabled namespace
// shows, or the identity or host of a subsystem that is linked, is refused with
// ErrForeign; a port in use with other attributes is refused with ErrPortTaken.
func Plan(actual State, d Desired) ([]Step, error) {
	if err := d.validate(actual); err != nil {
		return nil, err
	}
	p := planner{actual: actual, desired: d, wantPort: map[string]uint16{}, absent: map[string]bool{}}
	for _, s := range d.Subsystems {
		p.wantPort[s.NQN] = s.PortID
	}
	for _, nqn := range d.Absent {
		p.absent[nqn] = true
	}
	p.unlinkPorts()
	p.removeSubsystems()
	p.removePorts()
	for _, port := range d.Ports {
		if err := p.port(port); err != nil {
			return nil, err
		}
	}
	p.hosts()
	for _, s := range d.Subsystems {
		if err := p.subsystem(s); err != nil {
			return nil, err
		}
	}
	p.linkPorts()
	return p.steps, nil
}

type planner struct {
	actual   State
	desired  Desired
	wantPort map[string]uint16
	absent   map[string]bool
	steps    []Step
}

func (p *planner) add(op Op, path, object string) {
	p.steps = append(p.steps, Step{Op: op, Path: path, Object: object})
}

func (p *planner) write(path, value, object string) {
	p.steps = append(p.steps, Step{Op: OpWrite, Path: path, Value: value, Object: object})
}

func (p *planner) link(target, path, object string) {
	p.steps = append(p.steps, Step{Op: OpSymlink, Path: path, Target: target, Object: object})
}

// stale reports whether the link of nqn on the port has to go: the subsystem
// is to be absent or to be linked elsewhere.
func (p *planner) stale(port uint16, nqn string) bool {
	want, ok := p.wantPort[nqn]
	return p.absent[nqn] || ok && want != port
}

func (p *planner) unlinkPorts() {
	for _, id := range slices.Sorted(maps.Keys(p.actual.Ports)) {
		for _, nqn := range p.actual.Ports[id].Links {
			if p.stale(id, nqn) {
				p.add(OpUnlink, portLinkPath(id, nqn), "subsystem "+nqn)
			}
		}
	}
}

func (p *planner) removePorts() {
	for _, id := range p.desired.AbsentPorts {
		if st, ok := p.actual.Ports[id]; ok && len(p.remaining(st)) == 0 {
			p.add(OpRmdir, portPath(id), portObject(id))
		}
	}
}

// remaining returns the links that are left once the stale ones are removed.
func (p *planner) remaining(st PortState) []string {
	return slices.DeleteFunc(slices.Clone(st.Links), func(nqn string) bool { return p.stale(st.ID, nqn) })
}

func (p *planner) port(want Port) error {
	path, object := portPath(want.ID), portObject(want.ID)
	st, there := p.actual.Ports[want.ID]
	if there && st.matches(want) {
		return nil
	}
	if !there {
		p.add(OpMkdir, path, object)
	} else if links := p.remaining(st); len(links) > 0 {
		return fmt.Errorf("%w: port %d: wanted %s, found %s, linked to %q",
			ErrPortTaken, want.ID, want, st, links)
	}
	p.write(path+"/addr_trtype", trTypeTCP, object)
	p.write(path+"/addr_adrfam", adrFam(want.Address), object)
	p.write(path+"/addr_traddr", want.Address.Unmap().String(), object)
	p.write(path+"/addr_trsvcid", strconv.FormatUint(uint64(want.TCPPort), 10), object)
	return nil
}

func (p *planner) hosts() {
	made := map[string]bool{}
	for _, s := range p.desired.Subsystems {
		if !p.actual.Hosts[s.HostNQN] && !made[s.HostNQN] {
			made[s.HostNQN] = true
			p.add(OpMkdir, hostPath(s.HostNQN), "host "+s.HostNQN)
		}
	}
}

func (p *planner) linkPorts() {
	for _, s := range p.desired.Subsystems {
		if !slices.Contains(p.actual.Ports[s.PortID].Links, s.NQN) {
			p.link(subsystemPath(s.NQN), portLinkPath(s.PortID, s.NQN), "subsystem "+s.NQN+" on "+portObject(s.PortID)+p.listen(s.PortID))
		}
	}
}

// listen adds to an object's name the socket that the link will bind.
func (p *planner) listen(id uint16) string {
	for _, want := range p.desired.Ports {
		if want.ID == id {
			return " (" + want.String() + ")"
		}
	}
	st := p.actual.Ports[id]
	if addr, err := netip.ParseAddr(st.TrAddr); err == nil {
		return " (" + st.TrType + " " + addr.String() + " " + st.TrSvcID + ")"
	}
	return ""
}

func portObject(id uint16) string { return "port " + strconv.FormatUint(uint64(id), 10) }
