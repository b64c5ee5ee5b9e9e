package nvmet_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/nvmet/nvmettest"
)

// Doing everything twice, as after a lost answer, changes nothing.
func TestApplyTwice(t *testing.T) {
	for _, d := range []nvmet.Desired{desiredA(), {Absent: []string{subA}, AbsentPorts: []uint16{1}}} {
		k := nvmettest.New()
		if len(d.Absent) > 0 {
			converge(t, k, desiredA())
		}
		steps := mustPlan(t, k, d)
		if err := nvmet.Apply(t.Context(), k, steps); err != nil {
			t.Fatal(err)
		}
		for _, s := range steps {
			if s.Op == nvmet.OpWrite && (strings.Contains(s.Path, "/device_") || strings.Contains(s.Path, "/addr_")) {
				continue // attributes of live objects are rightly refused
			}
			if err := nvmet.Apply(t.Context(), k, []nvmet.Step{s}); err != nil {
				t.Errorf("again: %v", err)
			}
		}
		if left := mustPlan(t, k, d); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

func TestApplyBindError(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EADDRINUSE, syscall.EADDRNOTAVAIL} {
		k := nvmettest.New()
		k.SetBindError(netip.MustParseAddrPort("192.0.2.1:4421"), errno)
		d := desiredA()
		err := nvmet.Apply(t.Context(), k, mustPlan(t, k, d))
		var se *nvmet.StepError
		if !errors.Is(err, errno) || !errors.As(err, &se) || se.Step.Op != nvmet.OpSymlink {
			t.Fatalf("got %v, want a StepError with %v", err, errno)
		}
		if !strings.Contains(err.Error(), "192.0.2.1:4421") {
			t.Errorf("%v does not name the address", err)
		}
		if got := k.Enabled(subA); len(got) != 2 {
			t.Errorf("enabled: %v", got)
		}
		k.SetBindError(netip.MustParseAddrPort("192.0.2.1:4421"), nil)
		converge(t, k, d)
	}
}

func TestApplyMissingDevice(t *testing.T) {
	k := nvmettest.New()
	k.DeviceExists = func(p string) bool { return p != "/dev/test/a-2" }
	err := nvmet.Apply(t.Context(), k, mustPlan(t, k, desiredA()))
	if !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), subA+"/2") {
		t.Fatalf("got %v", err)
	}
	if k.OnPort(subA) {
		t.Error("linked though incomplete")
	}
}

func TestApplyContext(t *testing.T) {
	k := nvmettest.New()
	ctx, cancel := context.WithCancel(t.Context())
	k.SetOnOp(func(op, path string) error {
		if op == "mkdir" && strings.HasPrefix(path, "hosts/") {
			cancel()
		}
		return nil
	})
	if err := nvmet.Apply(ctx, k, mustPlan(t, k, desiredA())); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if _, err := k.ReadDir("subsystems/" + subA); err == nil {
		t.Error("went on after cancellation")
	}
}

// Another subsystem of the same host goes away between plan and apply, and
// takes the host along.
func TestApplyHostRemovedMeanwhile(t *testing.T) {
	k := nvmettest.New()
	steps := mustPlan(t, k, desiredA())
	for i, s := range steps {
		if s.Op == nvmet.OpSymlink {
			if err := k.Rmdir("hosts/" + host1); err != nil {
				t.Fatal(err)
			}
			if err := nvmet.Apply(t.Context(), k, steps[i:]); err != nil {
				t.Fatal(err)
			}
			break
		}
		if err := nvmet.Apply(t.Context(), k, steps[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if !k.Connectable(subA, host1) {
		t.Error("host cannot connect")
	}
}

// A host and a port that somebody else uses stay.
func TestApplyTolerates(t *testing.T) {
	k := nvmettest.New()
	converge(t, k, desiredA())
	steps := mustPlan(t, k, nvmet.Desired{Absent: []string{subA}, AbsentPorts: []uint16{1}})
	other := testSubsystem(prefix+"b", host1, 1, 1)
	converge(t, k, nvmet.Desired{Ports: []nvmet.Port{testPort(1)}, Subsystems: []nvmet.Subsystem{other}})
	if err := nvmet.Apply(t.Context(), k, steps); err != nil {
		t.Fatal(err)
	}
	if got := k.Visible(prefix+"b", host1); len(got) != 1 {
		t.Errorf("visible: %v", got)
	}
	// But a subsystem that is still on an unknown port is an error.
	if err := k.Mkdir("ports/8"); err != nil {
		t.Fatal(err)
	}
	err := nvmet.Apply(t.Context(), k, []nvmet.Step{{Op: nvmet.OpRmdir, Path: "subsystems/" + prefix + "b"}})
	if !errors.Is(err, syscall.EBUSY) {
		t.Errorf("got %v", err)
	}
}

func TestObserve(t *testing.T) {
	k := nvmettest.New()
	d := desiredA()
	b := testSubsystem("nqn.other:b", host2, 1, 1)
	d.Subsystems = append(d.Subsystems, b)
	converge(t, k, d)
	converge(t, k, nvmet.Desired{Ports: []nvmet.Port{testPort(2)}})
	if err := k.Mkdir("ports/0x7"); err != nil {
		t.Fatal(err)
	}
	st, err := nvmet.ObserveOwned(k, prefix)
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Subsystems) != 1 || len(st.Ports) != 1 || len(st.Ports[1].Links) != 2 || !st.Hosts[host1] || st.Hosts[host2] {
		t.Errorf("observed %+v", st)
	}
	if got := st.Subsystems[subA].Namespaces[2]; !got.Enabled || got.Namespace != testNamespace(subA, 2) {
		t.Errorf("namespace %+v", got)
	}
	if err := k.Mkdir("subsystems/" + subA + "/namespaces/0x9"); err != nil {
		t.Fatal(err)
	}
	if _, err := nvmet.Observe(k, []string{subA}, nil); !errors.Is(err, nvmet.ErrForeign) {
		t.Errorf("got %v, want ErrForeign", err)
	}
	st, err = nvmet.Observe(k, []string{"nqn.none"}, []uint16{77})
	if err != nil || len(st.Subsystems)+len(st.Ports)+len(st.Hosts) != 0 {
		t.Errorf("observed %+v, %v", st, err)
	}
	if _, err := nvmet.Observe(k, []string{"../x"}, nil); !errors.Is(err, nvmet.ErrDesired) {
		t.Errorf("got %v", err)
	}
}

// What Observe reads must not grow with what it is not asked about.
func TestObserveCost(t *testing.T) {
	reads := func(others uint16) int {
		k := nvmettest.New()
		converge(t, k, desiredA())
		for i := range others {
			converge(t, k, nvmet.Desired{Ports: []nvmet.Port{testPort(10 + i)}})
		}
		c := &counter{Tree: k}
		if _, err := nvmet.Observe(c, []string{subA}, []uint16{1}); err != nil {
			t.Fatal(err)
		}
		return c.n
	}
	if a, b := reads(0), reads(20); a != b {
		t.Errorf("%d reads alone, %d among others", a, b)
	}
}

type counter struct {
	nvmet.Tree
	n int
}

func (c *counter) ReadFile(p string) (string, error) {
	c.n++
	return c.Tree.ReadFile(p)
}

func (c *counter) ReadDir(p string) ([]string, error) {
	c.n++
	return c.Tree.ReadDir(p)
}
