package nvmet_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/nvmet/nvmettest"
)

const (
	prefix = "nqn.2024-01.example:"
	subA   = prefix + "a"
	host1  = "nqn.2014-08.org.nvmexpress:uuid:host1"
	host2  = "nqn.2014-08.org.nvmexpress:uuid:host2"
)

func testPort(id uint16) nvmet.Port {
	return nvmet.Port{ID: id, Address: netip.MustParseAddr("192.0.2.1"), TCPPort: 4420 + id}
}

// testNamespace derives an identity that is always the same.
func testNamespace(nqn string, nsid uint32) nvmet.Namespace {
	id := func(what string) uuid.UUID {
		return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%s/%d/%s", nqn, nsid, what))
	}
	return nvmet.Namespace{NSID: nsid, Path: fmt.Sprintf("/dev/test/%s-%d", nqn[strings.LastIndexByte(nqn, ':')+1:], nsid),
		UUID: id("uuid"), NGUID: id("nguid")}
}

func testSubsystem(nqn, host string, port uint16, nsids ...uint32) nvmet.Subsystem {
	s := nvmet.Subsystem{NQN: nqn, HostNQN: host, PortID: port, Serial: "serial-" + nqn[strings.LastIndexByte(nqn, ':')+1:], Model: "Holdfast"}
	for _, nsid := range nsids {
		s.Namespaces = append(s.Namespaces, testNamespace(nqn, nsid))
	}
	return s
}

// desiredA is one subsystem with two namespaces on port 1.
func desiredA() nvmet.Desired {
	return nvmet.Desired{Ports: []nvmet.Port{testPort(1)},
		Subsystems: []nvmet.Subsystem{testSubsystem(subA, host1, 1, 1, 2)}}
}

// scope returns what a Desired is about.
func scope(d nvmet.Desired) (nqns []string, ports []uint16) {
	nqns = append(nqns, d.Absent...)
	for _, s := range d.Subsystems {
		nqns = append(nqns, s.NQN)
		ports = append(ports, s.PortID)
	}
	for _, p := range d.Ports {
		ports = append(ports, p.ID)
	}
	return nqns, append(ports, d.AbsentPorts...)
}

func plan(t testing.TB, k *nvmettest.Kernel, d nvmet.Desired) ([]nvmet.Step, error) {
	t.Helper()
	nqns, ports := scope(d)
	st, err := nvmet.Observe(k, nqns, ports)
	if err != nil {
		t.Fatal(err)
	}
	return nvmet.Plan(st, d)
}

func mustPlan(t testing.TB, k *nvmettest.Kernel, d nvmet.Desired) []nvmet.Step {
	t.Helper()
	steps, err := plan(t, k, d)
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

// converge applies a plan and checks that nothing is left to do.
func converge(t testing.TB, k *nvmettest.Kernel, d nvmet.Desired) {
	t.Helper()
	if err := nvmet.Apply(t.Context(), k, mustPlan(t, k, d)); err != nil {
		t.Fatal(err)
	}
	if steps := mustPlan(t, k, d); len(steps) != 0 {
		t.Fatalf("not converged: %v", steps)
	}
}

func lines(steps []nvmet.Step) []string {
	var out []string
	for _, s := range steps {
		out = append(out, s.String())
	}
	return out
}
