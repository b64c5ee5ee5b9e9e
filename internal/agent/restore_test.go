package agent_test

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/store"
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
		t.Errorf("gate closed at %d, opened at %d of\n  %s", closed, opened, agenttest.Kinds(done))
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
		t.Errorf("listening %v after\n  %s", f.env.Kernel.Listening(), agenttest.Kinds(done))
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

// A pool that is not mounted yet does not hold up the others, and is never
// taken for an empty one.
func TestLatePool(t *testing.T) {
	e := agenttest.New(t, "early", "late")
	e.RetryAfter = 20 * time.Millisecond
	a := e.StartServing(t)
	early, err := a.Create(t.Context(), volume.CreateRequest{Name: "e", RequiredBytes: 1 << 20, Pool: "early"})
	must(t, err)
	late, err := a.Create(t.Context(), volume.CreateRequest{Name: "l", RequiredBytes: 1 << 20, Pool: "late"})
	must(t, err)
	p, q := publishTo(t, a, early, 1), publishTo(t, a, late, 1)
	if p.SubsystemNQN == q.SubsystemNQN || p.Portals[0] == q.Portals[0] {
		t.Errorf("two pools share a session: %+v %+v", p, q)
	}
	a.Kill()
	e.PowerCycle()
	dir := e.Pools[1].Dir
	must(t, os.Rename(dir, dir+".disk"))
	must(t, os.Mkdir(dir, 0o700)) // the empty mount point
	b := e.Start(t, nil)
	b.WaitServing("early")
	if !isShown(e, p) || isShown(e, q) {
		t.Errorf("early %v, late %v", isShown(e, p), isShown(e, q))
	}
	time.Sleep(50 * time.Millisecond)
	if problem := poolOf(t, b, "late").Problem; !strings.Contains(problem, ".holdfast-pool") || !strings.Contains(problem, "mounted") {
		t.Errorf("problem: %s", problem)
	}
	for what, err := range map[string]error{
		"publish": second(b.Publish(t.Context(), agenttest.Request(late.UUID, 1))),
		"create":  second(b.Create(t.Context(), volume.CreateRequest{Name: "x", RequiredBytes: 1 << 20, Pool: "late"})),
		"status":  second(b.Status(t.Context(), agenttest.Ref(q))),
		"delete":  b.Delete(t.Context(), uuid.New()),
	} {
		if !errors.Is(err, volume.ErrUnavailable) && what != "delete" || err == nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A fence needs no disk.
	must(t, b.Unpublish(t.Context(), late.UUID, ""))
	must(t, os.Remove(dir))
	must(t, os.Rename(dir+".disk", dir))
	b.WaitServing()
	if r := publishTo(t, b, late, 1); r.Generation != q.Generation+1 || !isShown(e, r) {
		t.Errorf("published %+v after %+v", r, q)
	}
}

func second[T any](_ T, err error) error { return err }

// An agent that cannot open a pool whose exports are complete leaves them be;
// incomplete ones it hides behind the gate.
func TestPoolGoneAtRestart(t *testing.T) {
	f, a := newFixture(t)
	f.env.RetryAfter = 20 * time.Millisecond
	a.Kill()
	marker := filepath.Join(f.env.Pools[0].Dir, ".holdfast-pool")
	must(t, os.Rename(marker, marker+".away"))
	b := f.env.Start(t, nil)
	eventually(t, "the problem is told", func() bool {
		return strings.Contains(poolOf(t, b, "fast").Problem, "marker") || strings.Contains(poolOf(t, b, "fast").Problem, ".holdfast-pool")
	})
	if f.env.Gate.IsClosed(4420) || !isShown(f.env, f.published[0]) {
		t.Error("complete exports were disturbed")
	}
	b.Kill()
	must(t, f.env.Kernel.WriteFile("subsystems/"+f.published[0].SubsystemNQN+"/namespaces/1/enable", "0"))
	c := f.env.Start(t, nil)
	eventually(t, "the gate closes", func() bool { return f.env.Gate.IsClosed(4420) })
	must(t, os.Rename(marker+".away", marker))
	c.WaitServing()
	if f.env.Gate.IsClosed(4420) || !isShown(f.env, f.published[0]) {
		t.Error("not restored")
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

// hung is a pool whose disk stops answering.
type hung struct {
	pool.Pool
	until chan struct{}
}

func (h hung) Capacity(ctx context.Context) (pool.Capacity, error) {
	<-h.until
	return h.Pool.Capacity(ctx)
}

func (h hung) Blank(ctx context.Context, id uuid.UUID) (bool, error) {
	<-h.until
	return h.Pool.Blank(ctx, id)
}

func TestHungPool(t *testing.T) {
	e := agenttest.New(t, "sick", "well")
	until := make(chan struct{})
	defer close(until)
	e.Wrap = func(name string, p pool.Pool) pool.Pool {
		if name == "sick" {
			return hung{p, until}
		}
		return p
	}
	a := e.Start(t, nil)
	a.WaitServing("well")
	began := time.Now()
	v, err := a.Create(t.Context(), volume.CreateRequest{Name: "v", RequiredBytes: 1 << 20, Pool: "well"})
	must(t, err)
	publishTo(t, a, v, 1)
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %s", took)
	}
	if p := poolOf(t, a, "sick"); !strings.Contains(p.Problem, "disk") {
		t.Errorf("problem: %q", p.Problem)
	}
}

// Promises are kept apart, however many are made at once.
func TestPromises(t *testing.T) {
	e := agenttest.New(t, "fast")
	a := e.StartServing(t)
	size := poolOf(t, a, "fast").AvailableBytes / 4
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for i := range 12 {
		wg.Go(func() {
			_, err := a.Create(context.Background(), volume.CreateRequest{Name: fmt.Sprint(i), RequiredBytes: size})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				made++
			case !errors.Is(err, volume.ErrNoSpace):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made != 3 && made != 4 { // others use the file system as well
		t.Errorf("%d promises of a quarter each", made)
	}
	if left := poolOf(t, a, "fast").AvailableBytes; left > size {
		t.Errorf("%d left", left)
	}
}

// A session holds 1,024 namespaces; the next one begins another session.
func TestManyPublications(t *testing.T) {
	e := agenttest.New(t, "fast")
	a := e.StartServing(t)
	v := mustCreate(t, a, "v0")
	p := publishTo(t, a, v, 1)
	a.Kill()
	db := e.OpenDB(t)
	must(t, db.Update(func(tx *store.Tx) error {
		for i := range 1023 {
			id := uuid.New()
			must(t, tx.PutVolume(store.Volume{UUID: id, Name: id.String(), Pool: "elsewhere", State: store.VolumeReady}))
			must(t, tx.PutPublication(store.Publication{Volume: id, Node: p.Node, Generation: 1, SubsystemNQN: p.SubsystemNQN, NSID: uint32(i + 10), State: store.PublicationEnding}))
		}
		return nil
	}))
	must(t, db.Close())
	b := e.StartServing(t)
	if q := publishTo(t, b, mustCreate(t, b, "v1"), 1); q.SubsystemNQN == p.SubsystemNQN || q.NSID != 1 {
		t.Errorf("first %+v, next %+v", p, q)
	}
}
