package initiatortest

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

// Lab is what TestConnector needs around a Connector.
type Lab struct {
	FS      nvmesysfs.FS
	Target  nvme.Target // answers, and nothing is connected to it
	Refused nvme.Target // nobody listens there
	Unknown nvme.Target // listens, and does not know the subsystem
}

// settle is how long a machine, emulated or not, may take to show something.
const settle = 20 * time.Second

// connectorCase is one test against a Connector.
type connectorCase struct {
	*testing.T
	connector initiator.Connector
	lab       Lab
}

// caseConfig differs from every default of the kernel.
var caseConfig = nvme.ConnectionConfig{CtrlLossTmo: -1, ReconnectDelay: 2, KeepAliveTmo: 7, NrIOQueues: 1}

// TestConnector is the contract of initiator.Connector. newConnector is called
// once a case.
func TestConnector(t *testing.T, newConnector func(*testing.T) initiator.Connector, lab Lab) {
	for _, c := range []struct {
		name string
		run  func(*connectorCase)
	}{
		{"makes one live controller with the options asked for", (*connectorCase).makesOne},
		{"refuses to connect twice", (*connectorCase).twice},
		{"connects again after a deletion", (*connectorCase).again},
		{"says that nobody listens", func(c *connectorCase) { c.refused(lab.Refused, syscall.ECONNREFUSED) }},
		{"says that the target refuses", func(c *connectorCase) { c.refused(lab.Unknown, syscall.EIO) }},
		{"does not begin when the context has ended", (*connectorCase).ended},
		{"checks the target first", (*connectorCase).invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer disconnect(t, lab.FS, lab.Target.NQN)
			c.run(&connectorCase{T: t, connector: newConnector(t), lab: lab})
		})
	}
}

func (c *connectorCase) connect(target nvme.Target) error {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), settle)
	defer cancel()
	return c.connector.Connect(ctx, target, caseConfig)
}

func (c *connectorCase) makesOne() {
	want := c.lab.Target
	if err := c.connect(want); err != nil {
		c.Fatal(err)
	}
	got := theController(c.T, c.lab.FS, want.NQN)
	if p, ok := got.Portal(); !ok || p != portalOf(want) {
		c.Errorf("portal %v, want %v", p, portalOf(want))
	}
	if got.State != "live" || got.HostNQN != want.HostNQN || got.HostID != want.HostID || got.Transport != "tcp" {
		c.Errorf("controller %+v", got)
	}
	if got.CtrlLossTmo != -1 || got.ReconnectDelay != 2 || got.KATO != 7 || got.QueueCount != 2 {
		c.Errorf("options of %+v, want those of %+v", got, caseConfig)
	}
}

func (c *connectorCase) twice() {
	if err := c.connect(c.lab.Target); err != nil {
		c.Fatal(err)
	}
	err := c.connect(c.lab.Target)
	if !errors.Is(err, initiator.ErrAlreadyConnected) {
		c.Errorf("got %v, want ErrAlreadyConnected", err)
	}
	wantConnectError(c.T, err, syscall.EALREADY, false)
	theController(c.T, c.lab.FS, c.lab.Target.NQN)
}

func (c *connectorCase) again() {
	for range 2 {
		if err := c.connect(c.lab.Target); err != nil {
			c.Fatal(err)
		}
		disconnect(c.T, c.lab.FS, c.lab.Target.NQN)
	}
}

func (c *connectorCase) refused(target nvme.Target, errno syscall.Errno) {
	wantConnectError(c.T, c.connect(target), errno, true)
	noController(c.T, c.lab.FS, target.NQN)
}

func (c *connectorCase) ended() {
	ctx, cancel := context.WithCancel(c.Context())
	cancel()
	if err := c.connector.Connect(ctx, c.lab.Target, caseConfig); !errors.Is(err, context.Canceled) {
		c.Errorf("got %v, want context.Canceled", err)
	}
	noController(c.T, c.lab.FS, c.lab.Target.NQN)
}

func (c *connectorCase) invalid() {
	bad := c.lab.Target
	bad.NQN += ",duplicate_connect"
	if err := c.connect(bad); !errors.Is(err, nvme.ErrTarget) {
		c.Errorf("got %v, want ErrTarget", err)
	}
	noController(c.T, c.lab.FS, c.lab.Target.NQN)
}

func portalOf(t nvme.Target) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(t.TargetAddress), uint16(t.TargetPort))
}

func wantConnectError(t *testing.T, err error, errno syscall.Errno, retryable bool) {
	t.Helper()
	var e *initiator.ConnectError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a *ConnectError", err)
	}
	if !errors.Is(err, errno) {
		t.Errorf("got %v, want errno %d (%v)", err, errno, errno)
	}
	if e.Retryable() != retryable {
		t.Errorf("%v: Retryable() = %t", err, e.Retryable())
	}
}

func controllers(t *testing.T, fs nvmesysfs.FS, nqn string) []nvmesysfs.Controller {
	t.Helper()
	s, err := fs.Session(nqn)
	if err != nil {
		t.Fatal(err)
	}
	return s.Controllers
}

func theController(t *testing.T, fs nvmesysfs.FS, nqn string) nvmesysfs.Controller {
	t.Helper()
	c := controllers(t, fs, nqn)
	if len(c) != 1 {
		t.Fatalf("controllers of %s: %+v, want one", nqn, c)
	}
	return c[0]
}

func noController(t *testing.T, fs nvmesysfs.FS, nqn string) {
	t.Helper()
	if c := controllers(t, fs, nqn); len(c) != 0 {
		t.Errorf("controllers of %s: %+v, want none", nqn, c)
	}
}

func disconnect(t *testing.T, fs nvmesysfs.FS, nqn string) {
	t.Helper()
	for _, c := range controllers(t, fs, nqn) {
		if err := fs.WriteControl(c.Name, nvmesysfs.DeleteController, "1"); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "the controllers of "+nqn+" are gone", func() bool { return len(controllers(t, fs, nqn)) == 0 })
}

// eventually waits for something that happens outside of this process.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(settle); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", settle, what)
		}
	}
}
