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

// TestConnector is the contract of initiator.Connector. newConnector is called
// once a case.
func TestConnector(t *testing.T, newConnector func(*testing.T) initiator.Connector, lab Lab) {
	config := nvme.ConnectionConfig{CtrlLossTmo: -1, ReconnectDelay: 2, KeepAliveTmo: 7, NrIOQueues: 1}
	connect := func(t *testing.T, target nvme.Target) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), settle)
		defer cancel()
		return newConnector(t).Connect(ctx, target, config)
	}
	t.Run("makes one live controller with the options asked for", func(t *testing.T) {
		defer disconnect(t, lab.FS, lab.Target.NQN)
		if err := connect(t, lab.Target); err != nil {
			t.Fatal(err)
		}
		c := theController(t, lab.FS, lab.Target.NQN)
		if p, ok := c.Portal(); !ok || p != portalOf(lab.Target) {
			t.Errorf("portal %v, want %v", p, portalOf(lab.Target))
		}
		if c.State != "live" || c.HostNQN != lab.Target.HostNQN || c.HostID != lab.Target.HostID || c.Transport != "tcp" {
			t.Errorf("controller %+v", c)
		}
		if c.CtrlLossTmo != -1 || c.ReconnectDelay != 2 || c.KATO != 7 || c.QueueCount != 2 {
			t.Errorf("options of %+v, want for ever, 2 s, 7 s, 2 queues", c)
		}
	})
	t.Run("refuses to connect twice", func(t *testing.T) {
		defer disconnect(t, lab.FS, lab.Target.NQN)
		if err := connect(t, lab.Target); err != nil {
			t.Fatal(err)
		}
		err := connect(t, lab.Target)
		if !errors.Is(err, initiator.ErrAlreadyConnected) {
			t.Errorf("got %v, want ErrAlreadyConnected", err)
		}
		wantConnectError(t, err, syscall.EALREADY, false)
		theController(t, lab.FS, lab.Target.NQN)
	})
	t.Run("connects again after a deletion", func(t *testing.T) {
		for range 2 {
			if err := connect(t, lab.Target); err != nil {
				t.Fatal(err)
			}
			disconnect(t, lab.FS, lab.Target.NQN)
		}
	})
	t.Run("says that nobody listens", func(t *testing.T) {
		wantConnectError(t, connect(t, lab.Refused), syscall.ECONNREFUSED, true)
		noController(t, lab.FS, lab.Refused.NQN)
	})
	t.Run("says that the target refuses", func(t *testing.T) {
		wantConnectError(t, connect(t, lab.Unknown), syscall.EIO, true)
		noController(t, lab.FS, lab.Unknown.NQN)
	})
	t.Run("does not begin when the context has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := newConnector(t).Connect(ctx, lab.Target, config)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		noController(t, lab.FS, lab.Target.NQN)
	})
	t.Run("checks the target first", func(t *testing.T) {
		bad := lab.Target
		bad.NQN += ",duplicate_connect"
		if err := connect(t, bad); !errors.Is(err, nvme.ErrTarget) {
			t.Errorf("got %v, want ErrTarget", err)
		}
		noController(t, lab.FS, lab.Target.NQN)
	})
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
