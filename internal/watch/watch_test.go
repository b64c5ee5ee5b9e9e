package watch

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/initiator/initiatortest"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

var portal = netip.MustParseAddrPort("10.0.0.2:4420")

// machine is one with a live session, and a watch on it.
func machine(t *testing.T) (*initiatortest.Fake, *Watch, *bytes.Buffer, string) {
	t.Helper()
	f := initiatortest.New(t)
	id := uuid.NewString()
	s := initiator.Session{
		NQN: volume.NQNPrefix + ":test", HostNQN: volume.HostNQNPrefix + id, HostID: id, Portals: []netip.AddrPort{portal},
		Config: nvme.ConnectionConfig{CtrlLossTmo: 600, ReconnectDelay: 5},
	}
	f.AddSubsystem(s.NQN, portal)
	if err := f.Host().EnsureSession(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	said := &bytes.Buffer{}
	w := &Watch{Sysfs: f.FS(), Log: slog.New(slog.NewTextHandler(said, nil)), Sessions: func() ([]Session, error) {
		return []Session{{NQN: s.NQN, Config: s.Config, Eager: true}}, nil
	}}
	return f, w, said, s.NQN
}

func TestWatchWrites(t *testing.T) {
	t.Parallel()
	f, w, _, nqn := machine(t)
	for range 2 {
		w.once()
		s, err := f.FS().Session(nqn)
		if err != nil || len(s.Controllers) != 1 || s.Controllers[0].ReconnectDelay != 1 || s.Controllers[0].CtrlLossTmo != 600 {
			t.Errorf("%+v, %v", s.Controllers, err)
		}
	}
}

// TestWatchSays: every change of a session is said once, and nothing else.
func TestWatchSays(t *testing.T) {
	t.Parallel()
	f, w, said, nqn := machine(t)
	look := func(want string) {
		t.Helper()
		for range 3 {
			w.once()
		}
		got := said.String()
		said.Reset()
		if want == "" && got != "" || strings.Count(got, "\n") > 1 || !strings.Contains(got, want) {
			t.Errorf("said %q, want %q once", got, want)
		}
	}
	look("")
	for range 2 {
		f.SetPortal(portal, initiatortest.Closed)
		look("session is lost")
		f.SetPortal(portal, initiatortest.Up)
		look("session is back")
	}
	s, err := f.FS().Session(nqn)
	if err != nil {
		t.Fatal(err)
	}
	f.DeleteController(s.Controllers[0].Name)
	look("has deleted the controller")
	look("")
}

// TestWatchRuns: the loop ends with its context, whatever it meets.
func TestWatchRuns(t *testing.T) {
	t.Parallel()
	f, w, said, nqn := machine(t)
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	w.Sessions = func() ([]Session, error) {
		if calls++; calls == 1 {
			return nil, errors.New("a damaged record")
		}
		cancel()
		return []Session{{NQN: nqn, Eager: true, Config: nvme.ConnectionConfig{ReconnectDelay: 5}}}, nil
	}
	w.Run(ctx)
	if !strings.Contains(said.String(), "a damaged record") {
		t.Errorf("said %q", said)
	}
	s, err := f.FS().Session(nqn)
	if err != nil || s.Controllers[0].ReconnectDelay != 1 {
		t.Errorf("after an error nothing was done: %+v, %v", s.Controllers, err)
	}
}
