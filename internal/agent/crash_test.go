package agent_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// fixture is the state in which a call is interrupted: two published volumes of
// one node in one session, and one that is not published.
type fixture struct {
	env       *agenttest.Env
	published []volume.Publication
	free      volume.Volume
}

func newFixture(t *testing.T) (fixture, *agenttest.Agent) {
	t.Helper()
	f := fixture{env: agenttest.New(t, "fast")}
	a := f.env.StartServing(t)
	for i := range 2 {
		v := mustCreate(t, a, fmt.Sprintf("published%d", i))
		p, err := a.Publish(t.Context(), agenttest.Request(v.UUID, 1))
		f.published = append(f.published, agenttest.Must(t, p, err))
	}
	f.free = mustCreate(t, a, "free")
	return f, a
}

func mustCreate(t *testing.T, a *agenttest.Agent, name string) volume.Volume {
	t.Helper()
	v, err := a.Create(t.Context(), volume.CreateRequest{Name: name, RequiredBytes: 1 << 20})
	return agenttest.Must(t, v, err)
}

// crashes are the calls that change something, with what must hold when they
// have succeeded.
var crashes = map[string]struct {
	call func(ctx context.Context, a *agenttest.Agent, f fixture) error
	// goneIsDone: ErrNotFound means success of a repetition.
	goneIsDone bool
	// stays is how many of the fixture's publications, from the last, stand
	// throughout.
	stays int
}{
	"create": {stays: 2, call: func(ctx context.Context, a *agenttest.Agent, _ fixture) error {
		_, err := a.Create(ctx, volume.CreateRequest{Name: "new", RequiredBytes: 1 << 20})
		return err
	}},
	"delete": {stays: 2, goneIsDone: true, call: func(ctx context.Context, a *agenttest.Agent, f fixture) error {
		return a.Delete(ctx, f.free.UUID)
	}},
	"publish in a session": {stays: 2, call: func(ctx context.Context, a *agenttest.Agent, f fixture) error {
		_, err := a.Publish(ctx, agenttest.Request(f.free.UUID, 1))
		return err
	}},
	"publish in a new session": {stays: 2, call: func(ctx context.Context, a *agenttest.Agent, f fixture) error {
		_, err := a.Publish(ctx, agenttest.Request(f.free.UUID, 2))
		return err
	}},
	"unpublish one of two": {stays: 1, goneIsDone: true, call: func(ctx context.Context, a *agenttest.Agent, f fixture) error {
		return a.Unpublish(ctx, f.published[0].Volume, f.published[0].Node)
	}},
	"unpublish both": {goneIsDone: true, call: func(ctx context.Context, a *agenttest.Agent, f fixture) error {
		for _, p := range f.published {
			if err := a.Unpublish(ctx, p.Volume, p.Node); err != nil && !errors.Is(err, volume.ErrNotFound) {
				return err
			}
		}
		return nil
	}},
}

// TestCrash kills the agent before and after every single change that a call
// makes to the outside, with and without losing the power too, starts it again
// and repeats the call: it must come to the same end as if nothing had happened.
func TestCrash(t *testing.T) {
	for name, c := range crashes {
		t.Run(name, func(t *testing.T) {
			f, a := newFixture(t)
			a.Faults.Count()
			if err := c.call(t.Context(), a, f); err != nil {
				t.Fatal(err)
			}
			n := len(a.Faults.Changes())
			want := world(t, f.env, a)
			if n == 0 {
				t.Fatal("nothing to interrupt")
			}
			for i := range 2 * n {
				for _, power := range []bool{false, true} {
					t.Run(fmt.Sprintf("change %d after %v power %v", i/2+1, i%2 == 1, power), func(t *testing.T) {
						t.Parallel()
						crash(t, i/2+1, i%2 == 1, power, c.stays, want, func(ctx context.Context, a *agenttest.Agent, f fixture) error {
							err := c.call(ctx, a, f)
							if c.goneIsDone && errors.Is(err, volume.ErrNotFound) {
								err = nil
							}
							return err
						})
					})
				}
			}
		})
	}
}

func crash(t *testing.T, at int, after, power bool, stays int, want []string, call func(context.Context, *agenttest.Agent, fixture) error) {
	f, a := newFixture(t)
	a.Faults.KillAt(at, after)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := call(ctx, a, f)
	if !a.Faults.Dead() {
		t.Fatalf("the fault did not strike (%v):\n  %s", err, agenttest.Lines(a.Faults.Changes()))
	}
	if code := finalCode(err); err != nil && code {
		t.Errorf("an interrupted call answered something final: %v", err)
	}
	a.Kill()
	if power {
		f.env.PowerCycle()
	}
	var done atomic.Bool
	faults := &agenttest.Faults{OnChange: func() {
		if !done.Load() {
			watchHosts(t, f.env, f.published[len(f.published)-stays:])
		}
	}}
	b := f.env.Start(t, faults)
	b.WaitServing()
	err = call(ctx, b, f)
	for ; errors.Is(err, volume.ErrBusy); err = call(ctx, b, f) {
		time.Sleep(time.Millisecond) // the restarted agent is finishing it
	}
	if err != nil {
		t.Fatalf("repeated: %v", err)
	}
	if diff := cmp.Diff(want, world(t, f.env, b)); diff != "" {
		t.Errorf("not as without a crash (-want +got):\n%s", diff)
	}
	done.Store(true)
	tearDown(t, f.env, b)
}

// finalCode: these errors would tell a caller that nothing was left behind.
func finalCode(err error) bool {
	for _, e := range []error{volume.ErrInvalid, volume.ErrExists, volume.ErrInUse, volume.ErrPrecondition, volume.ErrDenied, volume.ErrDataLoss} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// watchHosts fails the test if a host could connect now and would find one of
// the publications that stand missing: it would give up its device for good.
func watchHosts(t *testing.T, e *agenttest.Env, pubs []volume.Publication) {
	for _, p := range pubs {
		if e.Gate.IsClosed(4420) || len(e.Kernel.Listening()) == 0 {
			continue
		}
		seen := false
		for _, ns := range e.Kernel.Visible(p.SubsystemNQN, agenttest.Request(p.Volume, 1).HostNQN) {
			seen = seen || ns.NSID == p.NSID && ns.NGUID == p.NGUID && ns.UUID == p.Volume
		}
		if !seen {
			t.Errorf("the port is open and publication %d of %s is not there", p.NSID, p.SubsystemNQN)
		}
	}
}

// world describes everything outside of the agent without what is random.
func world(t *testing.T, e *agenttest.Env, a *agenttest.Agent) []string {
	t.Helper()
	var lines []string
	vs, err := a.List(t.Context(), uuid.Nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := map[uuid.UUID]string{}
	byName := map[string]bool{}
	for _, v := range vs {
		names[v.UUID] = v.Name
		byName[v.Name] = true
	}
	for _, n := range []string{"free", "new", "published0", "published1"} {
		if byName[n] {
			lines = append(lines, "volume "+n)
		}
	}
	files, err := filepath.Glob(filepath.Join(e.Pools[0].Dir, "volumes", "*"))
	lines = append(lines, fmt.Sprintf("files %d %v", len(files), err))
	pubs, err := a.Publications(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sessions := map[string]bool{}
	for _, n := range []string{"free", "new", "published0", "published1"} {
		for _, p := range pubs {
			if names[p.Volume] != n {
				continue
			}
			sessions[p.SubsystemNQN] = true
			lines = append(lines, fmt.Sprintf("published %s to %s generation %d", n, p.Node, p.Generation))
			for _, ns := range e.Kernel.Visible(p.SubsystemNQN, agenttest.Request(p.Volume, int(p.Node[4]-'0')).HostNQN) {
				lines = append(lines, fmt.Sprintf("  its session shows %s", names[ns.UUID]))
			}
		}
	}
	subsystems, err := e.Kernel.ReadDir("subsystems")
	hosts, err2 := e.Kernel.ReadDir("hosts")
	return append(lines, fmt.Sprintf("sessions %d subsystems %d hosts %d %v %v closed %v", len(sessions), len(subsystems), len(hosts), err, err2, e.Gate.IsClosed(4420)))
}

// tearDown takes everything away and looks for what is left.
func tearDown(t *testing.T, e *agenttest.Env, a *agenttest.Agent) {
	t.Helper()
	vs, err := a.List(t.Context(), uuid.Nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vs {
		if err := a.Unpublish(t.Context(), v.UUID, ""); err != nil && !errors.Is(err, volume.ErrNotFound) {
			t.Fatal(err)
		}
		if err := a.Delete(t.Context(), v.UUID); err != nil {
			t.Fatal(err)
		}
	}
	a.Kill()
	for _, dir := range []string{"subsystems", "hosts"} {
		if left, err := e.Kernel.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v %v", dir, left, err)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(e.Pools[0].Dir, "volumes", "*")); len(files) > 0 {
		t.Errorf("left in the pool: %v", files)
	}
	db := e.OpenDB(t)
	defer db.Close()
	err = db.View(func(tx *store.Tx) error {
		vs, err1 := tx.Volumes(uuid.Nil, 0)
		ps, err2 := tx.Publications()
		ss, err3 := tx.Sessions()
		if len(vs)+len(ps)+len(ss) > 0 {
			t.Errorf("left on record: %v %v %v", vs, ps, ss)
		}
		return errors.Join(err1, err2, err3)
	})
	if err != nil {
		t.Error(err)
	}
}
