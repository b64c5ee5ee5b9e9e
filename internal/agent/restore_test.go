package agent_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

func publishTo(t *testing.T, a *agenttest.Agent, v volume.Volume, node int) volume.Publication {
	t.Helper()
	p, err := a.Publish(t.Context(), agenttest.Request(v.UUID, node))
	return agenttest.Must(t, p, err)
}

// shown returns the volumes that the node of a publication sees in its session.
func shown(e *agenttest.Env, p volume.Publication) []uuid.UUID {
	var out []uuid.UUID
	for _, ns := range e.Kernel.Visible(p.SubsystemNQN, agenttest.Request(p.Volume, int(p.Node[4]-'0')).HostNQN) {
		out = append(out, ns.UUID)
	}
	return out
}

func isShown(e *agenttest.Env, p volume.Publication) bool {
	return slices.Contains(shown(e, p), p.Volume)
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func poolOf(t *testing.T, a *agenttest.Agent, name string) volume.Pool {
	t.Helper()
	info, err := a.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range info.Pools {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("no pool %s", name)
	return volume.Pool{}
}

// A restart of the agent alone changes nothing at all, and hosts see nothing.
func TestRestartTouchesNothing(t *testing.T) {
	f, a := newFixture(t)
	before := f.env.Kernel.Dump()
	a.Kill()
	faults := &agenttest.Faults{}
	faults.Count()
	b := f.env.Start(t, faults)
	b.WaitServing()
	if done := faults.Changes(); len(done) > 0 {
		t.Errorf("changed: %v", done)
	}
	if diff := cmp.Diff(before, f.env.Kernel.Dump()); diff != "" {
		t.Error(diff)
	}
	if again := publishTo(t, b, volume.Volume{UUID: f.published[0].Volume}, 1); cmp.Diff(f.published[0], again) != "" {
		t.Error(cmp.Diff(f.published[0], again))
	}
}

// After a reboot the gate is closed before the first link and opened after the last.
func TestRestoreBehindGate(t *testing.T) {
	f, a := newFixture(t)
	second := publishTo(t, a, f.free, 2)
	before := f.env.Kernel.Dump()
	a.Kill()
	f.env.PowerCycle()
	faults := &agenttest.Faults{}
	faults.Count()
	f.env.Start(t, faults).WaitServing()
	done := faults.Changes()
	closed, opened := slices.Index(done, "gate close"), slices.Index(done, "gate open")
	if closed != 0 || opened != len(done)-1 {
		t.Errorf("gate closed at %d, opened at %d of\n  %s", closed, opened, agenttest.Lines(done))
	}
	if diff := cmp.Diff(before, f.env.Kernel.Dump()); diff != "" {
		t.Error(diff)
	}
	for _, p := range append(f.published, second) {
		if !isShown(f.env, p) {
			t.Errorf("not shown: %+v", p)
		}
	}
}

// A restart that finds the gate still closed and all in place opens it.
func TestForgottenGate(t *testing.T) {
	f, a := newFixture(t)
	a.Kill()
	if err := f.env.Gate.Close(4420); err != nil {
		t.Fatal(err)
	}
	f.env.StartServing(t)
	if f.env.Gate.IsClosed(4420) {
		t.Error("the gate stays closed")
	}
}

func TestStopExports(t *testing.T) {
	f, a := newFixture(t)
	before := f.env.Kernel.Dump()
	a.Faults.Count()
	if err := a.Service.StopExports(t.Context()); err != nil {
		t.Fatal(err)
	}
	if done := a.Faults.Changes(); done[0] != "gate close" || !f.env.Gate.IsClosed(4420) || len(f.env.Kernel.Listening()) > 0 {
		t.Errorf("listening %v after\n  %s", f.env.Kernel.Listening(), agenttest.Lines(done))
	}
	a.Kill()
	f.env.StartServing(t)
	if diff := cmp.Diff(before, f.env.Kernel.Dump()); diff != "" || f.env.Gate.IsClosed(4420) {
		t.Errorf("closed %v\n%s", f.env.Gate.IsClosed(4420), diff)
	}
}

// One volume whose file is gone, cut or refused by the kernel is left out and
// told; the others serve, and it comes back when its file does.
func TestDamagedVolume(t *testing.T) {
	for name, damage := range map[string]struct {
		break_, mend func(t *testing.T, e *agenttest.Env, path string)
	}{
		"missing": {
			func(t *testing.T, _ *agenttest.Env, path string) { must(t, os.Rename(path, path+".away")) },
			func(t *testing.T, _ *agenttest.Env, path string) { must(t, os.Rename(path+".away", path)) },
		},
		"cut": {
			func(t *testing.T, _ *agenttest.Env, path string) { must(t, os.Truncate(path, 4096)) },
			func(t *testing.T, _ *agenttest.Env, path string) { must(t, os.Truncate(path, 1<<20)) },
		},
		"refused by the kernel": {
			func(_ *testing.T, e *agenttest.Env, path string) {
				e.Kernel.DeviceExists = func(p string) bool { return p != path || mended.Load(e) != nil }
			},
			func(_ *testing.T, e *agenttest.Env, _ string) { mended.Store(e) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, a := newFixture(t)
			f.env.RetryAfter = 20 * time.Millisecond
			bad, good := f.published[0], f.published[1]
			path := filepath.Join(f.env.Pools[0].Dir, "volumes", bad.Volume.String()+".img")
			a.Kill()
			f.env.PowerCycle()
			damage.break_(t, f.env, path)
			b := f.env.StartServing(t)
			if !isShown(f.env, good) || isShown(f.env, bad) || f.env.Gate.IsClosed(4420) {
				t.Fatalf("shown %v", shown(f.env, good))
			}
			if w := poolOf(t, b, "fast").Warnings; !slices.ContainsFunc(w, func(s string) bool { return strings.Contains(s, bad.SubsystemNQN) }) {
				t.Errorf("warnings: %q", w)
			}
			if _, err := b.Publish(t.Context(), agenttest.Request(bad.Volume, 1)); err == nil {
				t.Error("published a volume that is damaged")
			}
			publishTo(t, b, f.free, 1) // the session works on
			damage.mend(t, f.env, path)
			eventually(t, "the mended volume is shown", func() bool { return isShown(f.env, bad) })
			eventually(t, "the warning goes", func() bool {
				return !slices.ContainsFunc(poolOf(t, b, "fast").Warnings, func(s string) bool { return strings.Contains(s, bad.SubsystemNQN) })
			})
		})
	}
}

// mended remembers which hosts have been mended.
var mended onceSet

type onceSet struct{ m sync.Map }

func (o *onceSet) Store(e *agenttest.Env)    { o.m.Store(e, true) }
func (o *onceSet) Load(e *agenttest.Env) any { v, _ := o.m.Load(e); return v }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBindFailure(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EADDRINUSE, syscall.EADDRNOTAVAIL} {
		f, a := newFixture(t)
		f.env.RetryAfter = 20 * time.Millisecond
		a.Kill()
		f.env.PowerCycle()
		socket := netip.MustParseAddrPort("10.0.0.2:4420")
		f.env.Kernel.SetBindError(socket, errno)
		b := f.env.Start(t, nil)
		eventually(t, "the problem is told", func() bool { return strings.Contains(poolOf(t, b, "fast").Problem, "listen on 10.0.0.2:4420") })
		if !f.env.Gate.IsClosed(4420) {
			t.Error("the gate is open")
		}
		f.env.Kernel.SetBindError(socket, nil)
		b.WaitServing()
		if !isShown(f.env, f.published[1]) || f.env.Gate.IsClosed(4420) {
			t.Error("not restored")
		}
		b.Kill()
	}
}

// What the store does not know of is withdrawn, if its name says that it is
// this host's; what others configured is left alone.
func TestOrphansAndForeigners(t *testing.T) {
	f, a := newFixture(t)
	orphan := volume.NQNPrefix + ":box1:fast:00000000deadbeef"
	others := []string{"nqn.2020-01.com.example:disk", volume.NQNPrefix + ":box2:fast:0", volume.NQNPrefix + ":box1:faster:0"}
	for _, nqn := range append([]string{orphan}, others...) {
		must(t, f.env.Kernel.Mkdir("subsystems/"+nqn))
		must(t, f.env.Kernel.Mkdir("subsystems/"+nqn+"/namespaces/5"))
		must(t, f.env.Kernel.Symlink("subsystems/"+nqn, "ports/4420/subsystems/"+nqn))
	}
	a.Kill()
	f.env.StartServing(t)
	left, err := f.env.Kernel.ReadDir("subsystems")
	must(t, err)
	want := slices.Sorted(slices.Values(append(others, f.published[0].SubsystemNQN)))
	if diff := cmp.Diff(want, left); diff != "" {
		t.Error(diff)
	}
}

// Somebody takes the target apart while the agent runs: nothing is shown in
// part, everything comes back.
func TestTargetTakenApart(t *testing.T) {
	f, a := newFixture(t)
	f.env.Kernel.Reboot()
	_, err := a.Publish(t.Context(), agenttest.Request(f.free.UUID, 1))
	agenttest.WantErr(t, err, volume.ErrUnavailable)
	a.WaitServing()
	for _, p := range f.published {
		if !isShown(f.env, p) {
			t.Errorf("not shown: %+v", p)
		}
	}
	if p := publishTo(t, a, f.free, 1); len(shown(f.env, p)) != 3 {
		t.Errorf("shown: %v", shown(f.env, p))
	}
}

// A store that was put back from a copy hands out no NSID that the kernel
// shows, and ends nothing that it does not know.
func TestOldStore(t *testing.T) {
	f, a := newFixture(t)
	a.Kill()
	file := filepath.Join(f.env.State, "state.db")
	copied, err := os.ReadFile(file)
	must(t, err)
	a = f.env.StartServing(t)
	lost := publishTo(t, a, f.free, 1)
	a.Kill()
	must(t, os.WriteFile(file, copied, 0o600))
	b := f.env.StartServing(t)
	if isShown(f.env, lost) {
		t.Error("a publication without a record is still shown")
	}
	_, err = b.Status(t.Context(), agenttest.Ref(lost))
	agenttest.WantErr(t, err, volume.ErrUnavailable, "newer than the records")
	if now := publishTo(t, b, f.free, 1); now.SubsystemNQN == lost.SubsystemNQN && now.NSID == lost.NSID {
		t.Errorf("%+v again", now)
	}
}

// A changed portal moves the whole pool, with both ports closed meanwhile.
func TestPortalMoved(t *testing.T) {
	f, a := newFixture(t)
	second := publishTo(t, a, f.free, 2)
	a.Kill()
	f.env.Pools[0].Portal = netip.MustParseAddrPort("10.0.0.2:5000")
	faults := &agenttest.Faults{OnChange: func() {
		if slices.Contains(f.env.Kernel.Listening(), netip.MustParseAddrPort("10.0.0.2:4420")) && !f.env.Gate.IsClosed(4420) {
			for _, p := range append(f.published, second) {
				if !isShown(f.env, p) {
					t.Errorf("the old port is open and %s is not there", p.SubsystemNQN)
				}
			}
		}
	}}
	f.env.Start(t, faults).WaitServing()
	if got := f.env.Kernel.Listening(); len(got) != 1 || got[0].Port() != 5000 || f.env.Gate.IsClosed(4420) || f.env.Gate.IsClosed(5000) {
		t.Errorf("listening on %v, closed %v", got, f.env.Gate.Events())
	}
	for _, p := range append(f.published, second) {
		if !isShown(f.env, p) {
			t.Errorf("not shown: %+v", p)
		}
	}
}

// A host that was given another name does not serve: its volumes carry the old one.
func TestHostRenamed(t *testing.T) {
	f, a := newFixture(t)
	f.env.RetryAfter = 20 * time.Millisecond
	a.Kill()
	f.env.Host = "other"
	b := f.env.Start(t, nil)
	eventually(t, "the problem is told", func() bool { return strings.Contains(poolOf(t, b, "fast").Problem, "name") })
	if !isShown(f.env, f.published[0]) || f.env.Gate.IsClosed(4420) {
		t.Error("the exports were disturbed")
	}
}
