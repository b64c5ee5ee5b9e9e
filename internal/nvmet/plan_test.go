package nvmet_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/nvmet/nvmettest"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// expand replaces short names, to keep expectations readable.
func expand(text string) []string {
	ns := testNamespace(subA, 1)
	r := strings.NewReplacer("$A", subA, "$H1", host1, "$H2", host2,
		"$UUID1", ns.UUID.String(), "$NGUID1", ns.NGUID.String())
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, r.Replace(line))
		}
	}
	return out
}

const planFromNothing = `
	mkdir ports/1
	write ports/1/addr_trtype="tcp"
	write ports/1/addr_adrfam="ipv4"
	write ports/1/addr_traddr="192.0.2.1"
	write ports/1/addr_trsvcid="4421"
	mkdir hosts/$H1
	mkdir subsystems/$A
	write subsystems/$A/attr_allow_any_host="0"
	write subsystems/$A/attr_serial="serial-a"
	write subsystems/$A/attr_model="Holdfast"
	mkdir subsystems/$A/namespaces/1
	write subsystems/$A/namespaces/1/device_path="/dev/test/a-1"
	write subsystems/$A/namespaces/1/device_uuid="$UUID1"
	write subsystems/$A/namespaces/1/device_nguid="$NGUID1"
	write subsystems/$A/namespaces/1/enable="1"
	symlink subsystems/$A/allowed_hosts/$H1 -> hosts/$H1
	symlink ports/1/subsystems/$A -> subsystems/$A`

func oneNamespace() nvmet.Desired {
	d := desiredA()
	d.Subsystems[0].Namespaces = d.Subsystems[0].Namespaces[:1]
	return d
}

type planCase struct {
	name   string
	before *nvmet.Desired
	damage func(*nvmettest.Kernel) error
	want   nvmet.Desired
	steps  string
}

func planCases() []planCase {
	moved := oneNamespace()
	moved.Ports = append(moved.Ports, testPort(2))
	moved.Subsystems[0].PortID = 2
	return []planCase{
		{name: "from nothing", want: oneNamespace(), steps: planFromNothing},
		{name: "nothing to do", before: ptr(oneNamespace()), want: oneNamespace()},
		{name: "remove all", before: ptr(oneNamespace()),
			want: nvmet.Desired{Absent: []string{subA}, AbsentPorts: []uint16{1}}, steps: `
			unlink ports/1/subsystems/$A
			rmdir subsystems/$A/namespaces/1
			unlink subsystems/$A/allowed_hosts/$H1
			rmdir subsystems/$A
			rmdir hosts/$H1
			rmdir ports/1`},
		{name: "remove what is not there", want: nvmet.Desired{Absent: []string{subA}, AbsentPorts: []uint16{1}}},
		{name: "one namespace less", before: ptr(desiredA()), want: oneNamespace(), steps: `
			rmdir subsystems/$A/namespaces/2`},
		{name: "another port", before: ptr(oneNamespace()), want: moved, steps: `
			unlink ports/1/subsystems/$A
			mkdir ports/2
			write ports/2/addr_trtype="tcp"
			write ports/2/addr_adrfam="ipv4"
			write ports/2/addr_traddr="192.0.2.1"
			write ports/2/addr_trsvcid="4422"
			symlink ports/2/subsystems/$A -> subsystems/$A`},
		{name: "half made", before: ptr(oneNamespace()), want: oneNamespace(),
			damage: func(k *nvmettest.Kernel) error {
				return errors.Join(k.Unlink("ports/1/subsystems/"+subA),
					k.WriteFile("subsystems/"+subA+"/namespaces/1/enable", "0"),
					k.WriteFile("subsystems/"+subA+"/namespaces/1/device_uuid", uuid.NewString()),
					k.WriteFile("ports/1/addr_trsvcid", "1"),
					k.Unlink("subsystems/"+subA+"/allowed_hosts/"+host1),
					k.WriteFile("subsystems/"+subA+"/attr_allow_any_host", "1"))
			}, steps: `
			write ports/1/addr_trtype="tcp"
			write ports/1/addr_adrfam="ipv4"
			write ports/1/addr_traddr="192.0.2.1"
			write ports/1/addr_trsvcid="4421"
			mkdir hosts/$H1
			write subsystems/$A/attr_allow_any_host="0"
			write subsystems/$A/namespaces/1/device_uuid="$UUID1"
			write subsystems/$A/namespaces/1/enable="1"
			symlink subsystems/$A/allowed_hosts/$H1 -> hosts/$H1
			symlink ports/1/subsystems/$A -> subsystems/$A`},
		{name: "another host while unlinked", before: ptr(oneNamespace()), want: otherHost(oneNamespace()),
			damage: func(k *nvmettest.Kernel) error { return k.Unlink("ports/1/subsystems/" + subA) }, steps: `
			mkdir hosts/$H2
			unlink subsystems/$A/allowed_hosts/$H1
			symlink subsystems/$A/allowed_hosts/$H2 -> hosts/$H2
			symlink ports/1/subsystems/$A -> subsystems/$A`},
	}
}

func TestPlanOrder(t *testing.T) {
	for _, c := range planCases() {
		t.Run(c.name, func(t *testing.T) {
			k := nvmettest.New()
			if c.before != nil {
				converge(t, k, *c.before)
			}
			if c.damage != nil {
				if err := c.damage(k); err != nil {
					t.Fatal(err)
				}
			}
			nqns, _ := scope(c.want)
			st, err := nvmet.Observe(k, nqns, []uint16{1, 2})
			if err != nil {
				t.Fatal(err)
			}
			steps, err := nvmet.Plan(st, c.want)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(expand(c.steps), lines(steps)); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			converge(t, k, c.want)
		})
	}
}

func ptr[T any](v T) *T { return &v }

func otherHost(d nvmet.Desired) nvmet.Desired {
	d.Subsystems[0].HostNQN = host2
	return d
}

func TestPlanRefuses(t *testing.T) {
	change := func(f func(d *nvmet.Desired)) nvmet.Desired {
		d := desiredA()
		f(&d)
		return d
	}
	cases := map[string]struct {
		d    nvmet.Desired
		want error
		text string
	}{
		"path":   {change(func(d *nvmet.Desired) { d.Subsystems[0].Namespaces[0].Path = "/dev/other" }), nvmet.ErrForeign, "/dev/other"},
		"uuid":   {change(func(d *nvmet.Desired) { d.Subsystems[0].Namespaces[0].UUID = uuid.New() }), nvmet.ErrForeign, "a/1"},
		"nguid":  {change(func(d *nvmet.Desired) { d.Subsystems[0].Namespaces[0].NGUID = uuid.New() }), nvmet.ErrForeign, "a/1"},
		"serial": {change(func(d *nvmet.Desired) { d.Subsystems[0].Serial = "x" }), nvmet.ErrForeign, "serial"},
		"model":  {change(func(d *nvmet.Desired) { d.Subsystems[0].Model = "x" }), nvmet.ErrForeign, "model"},
		"host":   {otherHost(desiredA()), nvmet.ErrForeign, host1},
		"port":   {change(func(d *nvmet.Desired) { d.Ports[0].TCPPort++ }), nvmet.ErrPortTaken, "port 1: wanted tcp 192.0.2.1:4422, found tcp ipv4 [192.0.2.1]:4421"},
		"family": {change(func(d *nvmet.Desired) { d.Ports[0].Address = netip.MustParseAddr("2001:db8::1") }), nvmet.ErrPortTaken, "[2001:db8::1]:4421"},

		"no port":         {nvmet.Desired{Subsystems: []nvmet.Subsystem{testSubsystem(subA, host1, 7, 1)}}, nvmet.ErrDesired, "port 7"},
		"port absent":     {nvmet.Desired{Subsystems: desiredA().Subsystems, AbsentPorts: []uint16{1}}, nvmet.ErrDesired, "port 1"},
		"both":            {change(func(d *nvmet.Desired) { d.Absent = []string{subA} }), nvmet.ErrDesired, subA},
		"twice":           {change(func(d *nvmet.Desired) { d.Subsystems = append(d.Subsystems, d.Subsystems[0]) }), nvmet.ErrDesired, subA},
		"port twice":      {change(func(d *nvmet.Desired) { d.Ports = append(d.Ports, d.Ports[0]) }), nvmet.ErrDesired, "port 1"},
		"same socket":     {change(func(d *nvmet.Desired) { p := d.Ports[0]; p.ID = 2; d.Ports = append(d.Ports, p) }), nvmet.ErrDesired, "ports 1 and 2"},
		"no address":      {change(func(d *nvmet.Desired) { d.Ports[0].Address = netip.Addr{} }), nvmet.ErrDesired, "port 1"},
		"nsid 0":          {change(func(d *nvmet.Desired) { d.Subsystems[0].Namespaces[0].NSID = 0 }), nvmet.ErrDesired, "namespace 0"},
		"nsid twice":      {change(func(d *nvmet.Desired) { d.Subsystems[0].Namespaces[0].NSID = 2 }), nvmet.ErrDesired, "namespace 2"},
		"uuid twice":      {change(func(d *nvmet.Desired) { n := d.Subsystems[0].Namespaces; n[0].UUID = n[1].UUID }), nvmet.ErrDesired, "UUID"},
		"relative path":   {change(func(d *nvmet.Desired) { d.Subsystems[0].Namespaces[0].Path = "dev" }), nvmet.ErrDesired, "path"},
		"NQN with slash":  {nvmet.Desired{Absent: []string{"../ports/1"}}, nvmet.ErrDesired, "NQN"},
		"serial padded":   {change(func(d *nvmet.Desired) { d.Subsystems[0].Serial = "x " }), nvmet.ErrDesired, "serial"},
		"no host":         {change(func(d *nvmet.Desired) { d.Subsystems[0].HostNQN = "" }), nvmet.ErrDesired, "host"},
		"serial too long": {change(func(d *nvmet.Desired) { d.Subsystems[0].Serial = strings.Repeat("x", 21) }), nvmet.ErrDesired, "serial"},
	}
	k := nvmettest.New()
	converge(t, k, desiredA())
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			steps, err := plan0(k, c.d)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || len(steps) > 0 {
				t.Errorf("got %v, %v; want %v with %q", steps, err, c.want, c.text)
			}
			if !errors.Is(c.want, nvmet.ErrDesired) && !errors.Is(err, volume.ErrPrecondition) {
				t.Errorf("%v does not wrap ErrPrecondition", err)
			}
		})
	}
}

// plan0 observes what exists whatever the Desired says, so that broken ones
// get as far as Plan.
func plan0(k *nvmettest.Kernel, d nvmet.Desired) ([]nvmet.Step, error) {
	st, err := nvmet.Observe(k, []string{subA}, []uint16{1})
	if err != nil {
		return nil, err
	}
	return nvmet.Plan(st, d)
}

// A port whose links all go away in the same plan may be given another address.
func TestPlanPortReused(t *testing.T) {
	k := nvmettest.New()
	converge(t, k, desiredA())
	port := testPort(1)
	port.TCPPort = 9999
	b := testSubsystem(prefix+"b", host2, 1, 5)
	converge(t, k, nvmet.Desired{Ports: []nvmet.Port{port}, Absent: []string{subA}, Subsystems: []nvmet.Subsystem{b}})
	if got := k.Listening(); len(got) != 1 || got[0].Port() != 9999 {
		t.Errorf("listening: %v", got)
	}
}

// A host that another subsystem goes on or begins to use is not removed.
func TestPlanKeepsHost(t *testing.T) {
	k := nvmettest.New()
	converge(t, k, desiredA())
	b := testSubsystem(prefix+"b", host1, 1, 5)
	d := nvmet.Desired{Ports: []nvmet.Port{testPort(1)}, Absent: []string{subA}, Subsystems: []nvmet.Subsystem{b}}
	for _, line := range lines(mustPlan(t, k, d)) {
		if strings.Contains(line, "dir hosts/") {
			t.Errorf("host touched: %s", line)
		}
	}
	converge(t, k, d)
	if !k.Connectable(prefix+"b", host1) {
		t.Error("host cannot connect")
	}
}
