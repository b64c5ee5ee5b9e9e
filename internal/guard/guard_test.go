package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/dm"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const table = "holdfast-test-g1"

var (
	pathA = Path{Disk: "a", Node: "/dev/a", Major: 259, Minor: 1, SizeBytes: 1 << 20}
	pathB = Path{Disk: "b", Node: "/dev/b", Major: 259, Minor: 2, SizeBytes: 1 << 20}
	pathC = Path{Disk: "c", Node: "/dev/c", Major: 259, Minor: 3, SizeBytes: 1 << 20}
	grown = Path{Disk: "a", Node: "/dev/a", Major: 259, Minor: 1, SizeBytes: 2 << 20}
)

// onA is a fake with a table that is well on path A.
func onA(t *testing.T) (*fake, *Guards, *opener) {
	t.Helper()
	f := newFake()
	g, o := f.guards()
	if _, err := g.Ensure(t.Context(), table, pathA, false, o.proof); err != nil {
		t.Fatal(err)
	}
	f.wantWell(t, table, pathA)
	f.mend() // forgets the calls
	return f, g, o
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantChanges(t *testing.T, f *fake, want ...string) {
	t.Helper()
	if got := f.changes(); !reflect.DeepEqual(got, want) && len(got)+len(want) > 0 {
		t.Errorf("changes %q, want %q", got, want)
	}
	f.mend()
}

func TestEnsure(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.minor = 7
	g, o := f.guards()
	d, err := g.Ensure(t.Context(), table, pathA, false, o.proof)
	must(t, err)
	if want := (Device{Disk: "dm-7", Node: "/dev/dm-7", Major: 254, Minor: 7}); d != want {
		t.Errorf("got %+v, want %+v", d, want)
	}
	wantChanges(t, f, "create", "load", "resume")
	f.wantWell(t, table, pathA)
	if uuid := f.look(table).UUID; uuid != "HOLDFAST-test-g1" {
		t.Errorf("UUID %q", uuid)
	}

	again, err := g.Ensure(t.Context(), table, pathA, false, func() error { return errors.New("not asked") })
	if err != nil || again != d {
		t.Errorf("again: %+v, %v", again, err)
	}
	wantChanges(t, f, "create")

	moved, err := g.Ensure(t.Context(), table, pathB, false, o.proof)
	if err != nil || moved != d {
		t.Errorf("on another path: %+v, %v", moved, err)
	}
	f.wantWell(t, table, pathB)
	if o.opened != o.closed {
		t.Errorf("opened %d, closed %d", o.opened, o.closed)
	}
}

func TestEnsureReadOnly(t *testing.T) {
	t.Parallel()
	f := newFake()
	g, o := f.guards()
	_, err := g.Ensure(t.Context(), table, pathA, true, o.proof)
	must(t, err)
	if !f.look(table).ReadOnly {
		t.Error("not read-only")
	}
}

// A UUID that another device has is no table of this volume.
func TestEnsureForeign(t *testing.T) {
	t.Parallel()
	f := newFake()
	g, o := f.guards()
	_, err := f.Create("foreign", "HOLDFAST-test-g1")
	must(t, err)
	if _, err := g.Ensure(t.Context(), table, pathA, false, o.proof); !errors.Is(err, dm.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if f.look("foreign").live != nil {
		t.Error("the other device was used")
	}
}

func TestFeed(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		before func(g *Guards, f *fake) error
		to     Path
		want   []string
	}{
		"nothing to do": {func(*Guards, *fake) error { return nil }, pathA, nil},
		"held":          {func(g *Guards, _ *fake) error { return g.Hold(table, pathA.dev()) }, pathA, []string{"message"}},
		"given up":      {func(g *Guards, _ *fake) error { return g.GiveUp(table) }, pathA, []string{"message", "message"}},
		"another":       {func(*Guards, *fake) error { return nil }, pathB, []string{"load", "suspend", "resume"}},
		"held, another": {func(g *Guards, _ *fake) error { return g.Hold(table, pathA.dev()) }, pathB, []string{"load", "suspend", "resume"}},
		"grown":         {func(*Guards, *fake) error { return nil }, grown, []string{"load", "suspend", "resume"}},
		"suspended":     {func(_ *Guards, f *fake) error { return f.Suspend(table) }, pathA, []string{"load", "resume"}},
		"loaded":        {func(_ *Guards, f *fake) error { return f.Load(table, multipathTable(pathC, false)) }, pathA, []string{"clear"}},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, g, o := onA(t)
			must(t, c.before(g, f))
			f.mend()
			must(t, g.Feed(table, c.to, false, o.proof))
			wantChanges(t, f, c.want...)
			f.wantWell(t, table, c.to)
			if o.opened != o.closed {
				t.Errorf("opened %d, closed %d", o.opened, o.closed)
			}
		})
	}
}

func TestFeedMissing(t *testing.T) {
	t.Parallel()
	g, o := newFake().guards()
	if err := g.Feed(table, pathA, false, o.proof); !errors.Is(err, dm.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := g.State(table); !errors.Is(err, dm.ErrNotFound) {
		t.Errorf("state: %v", err)
	}
	if err := g.Hold(table, "1:1"); !errors.Is(err, dm.ErrNotFound) {
		t.Errorf("hold: %v", err)
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	f, g, _ := onA(t)
	base := State{
		Device: Device{Disk: "dm-0", Node: "/dev/dm-0", Major: 254}, SizeBytes: 1 << 20,
		Path: "259:1", Active: true, Queues: true, HasTable: true,
	}
	expect := func(what string, change func(*State)) {
		t.Helper()
		change(&base)
		if got, err := g.State(table); err != nil || got != base {
			t.Fatalf("%s: got %+v, %v, want %+v", what, got, err, base)
		}
	}
	expect("well", func(*State) {})
	if !base.On(pathA) || base.On(pathB) {
		t.Error("well: not on A alone")
	}
	f.devices[table].OpenCount = 2
	expect("open", func(s *State) { s.OpenCount = 2 })
	must(t, g.Hold(table, pathA.dev()))
	expect("held", func(s *State) { s.Active = false })
	if base.On(pathA) {
		t.Error("held: on A")
	}
	must(t, g.GiveUp(table))
	expect("given up", func(s *State) { s.Queues = false })
	must(t, f.Load(table, multipathTable(pathB, false)))
	expect("loaded", func(s *State) { s.NewTable = true })
	must(t, f.Suspend(table))
	expect("suspended", func(s *State) { s.Suspended, s.Queues = true, true })
}

// Events are those of the list, and a list that is the same is the same map.
func TestListAgain(t *testing.T) {
	t.Parallel()
	f, g, _ := onA(t)
	list := func() map[string]uint32 {
		t.Helper()
		m, err := g.List()
		must(t, err)
		return m
	}
	before := list()[table]
	must(t, g.Hold(table, pathA.dev()))
	if after := list()[table]; after == before {
		t.Error("an event was missed")
	}
	must(t, f.Remove(table))
	if m := list(); len(m) != 0 {
		t.Errorf("got %v", m)
	}
}

// Only a table that waits and has nothing below is parked, and whatever comes
// next takes it from there.
func TestPark(t *testing.T) {
	t.Parallel()
	held := func(f *fake) { f.devices[table].live.active = false }
	tests := map[string]struct {
		change func(*fake)
		want   bool
	}{
		"active":     {func(*fake) {}, false},
		"held":       {held, true},
		"busy below": {func(f *fake) { held(f); f.devices[table].live.below = 1 }, false},
		"given up":   {func(f *fake) { held(f); f.devices[table].live.queues = false }, false},
		"parked":     {func(f *fake) { held(f); f.devices[table].Suspended = true }, true},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, g, o := onA(t)
			c.change(f)
			must(t, g.Park(table))
			if got := f.look(table).Suspended; got != c.want {
				t.Fatalf("suspended: %v", got)
			}
			f.devices[table].live.below = 0
			must(t, g.Feed(table, pathA, false, o.proof))
			f.wantWell(t, table, pathA)
		})
	}
	if err := newFakeGuards().Park(table); !errors.Is(err, dm.ErrNotFound) {
		t.Errorf("no table: %v", err)
	}
}

func newFakeGuards() *Guards { g, _ := newFake().guards(); return g }

// A parked table takes no messages, and is given up all the same.
func TestGiveUpParked(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*Guards) error{
		"give up":       func(g *Guards) error { return g.GiveUp(table) },
		"stop queueing": func(g *Guards) error { return g.StopQueueing(table) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, g, _ := onA(t)
			must(t, errors.Join(g.Hold(table, pathA.dev()), g.Park(table), end(g)))
			if d := f.look(table); d.Suspended || d.live.queues {
				t.Errorf("%+v, table %+v", d.Device, d.live)
			}
		})
	}
}

// A process that ends waits for the table that it is changing, lets nothing new
// begin, and does not wait for ever.
func TestClose(t *testing.T) {
	t.Parallel()
	f, g, o := onA(t)
	under, goOn := make(chan struct{}), make(chan struct{})
	f.before = func(op, _ string) {
		if op == "suspend" {
			close(under)
			<-goOn
		}
	}
	fed := make(chan error, 1)
	go func() { fed <- g.Feed(table, pathB, false, o.proof) }()
	<-under
	soon, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	g.Close(soon)
	closed := make(chan struct{})
	go func() { g.Close(t.Context()); close(closed) }()
	if err := g.Feed(table, pathC, false, o.proof); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("feed: %v", err)
	}
	if _, err := g.Ensure(t.Context(), "holdfast-other", pathC, false, o.proof); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("ensure: %v", err)
	}
	select {
	case <-closed:
		t.Error("closed while a table is suspended")
	default:
	}
	close(goOn)
	must(t, <-fed)
	<-closed
	f.wantWell(t, table, pathB)
}

func TestStateNoTable(t *testing.T) {
	t.Parallel()
	f := newFake()
	g, _ := f.guards()
	_, err := f.Create(table, "U")
	must(t, err)
	s, err := g.State(table)
	if err != nil || s.HasTable || s.On(pathA) || s.On(Path{}) {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	f, g, _ := onA(t)
	must(t, g.Hold(table, pathA.dev()))
	must(t, g.Hold(table, pathA.dev()))
	wantChanges(t, f, "message", "message")
	if live := f.look(table).live; live.active || !live.queues {
		t.Errorf("%+v", live)
	}
	if err := g.Hold(table, pathB.dev()); !errors.Is(err, unix.EINVAL) {
		t.Errorf("another path: %v", err)
	}
}

func TestGiveUp(t *testing.T) {
	t.Parallel()
	nothing := func(*Guards, *fake) error { return nil }
	tests := map[string]struct {
		before func(g *Guards, f *fake) error
		want   []string
	}{
		"live":      {nothing, []string{"message", "message"}},
		"held":      {func(g *Guards, _ *fake) error { return g.Hold(table, pathA.dev()) }, []string{"message"}},
		"loaded":    {func(_ *Guards, f *fake) error { return f.Load(table, multipathTable(pathB, false)) }, []string{"message", "message"}},
		"suspended": {func(_ *Guards, f *fake) error { return f.Suspend(table) }, []string{"clear", "resume", "message", "message"}},
		"loaded, suspended": {func(_ *Guards, f *fake) error {
			return errors.Join(f.Load(table, multipathTable(pathB, false)), f.Suspend(table))
		}, []string{"clear", "resume", "message", "message"}},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, g, o := onA(t)
			must(t, c.before(g, f))
			f.mend()
			must(t, g.GiveUp(table))
			wantChanges(t, f, c.want...)
			wantGivenUp(t, f, pathA)
			must(t, g.GiveUp(table))
			must(t, g.Feed(table, pathB, false, o.proof))
			f.wantWell(t, table, pathB)
		})
	}
}

// wantGivenUp fails unless what waits has failed, on the path as it was.
func wantGivenUp(t *testing.T, f *fake, p Path) {
	t.Helper()
	d := f.look(table)
	if d.Suspended || d.live == nil || d.live.queues || d.live.active || d.live.path != p.dev() {
		t.Fatalf("%+v with table %+v", d.Device, d.live)
	}
}

func TestGiveUpNothing(t *testing.T) {
	t.Parallel()
	f := newFake()
	g, _ := f.guards()
	must(t, g.GiveUp(table))
	_, err := f.Create(table, "U")
	must(t, err)
	must(t, g.GiveUp(table))
	wantChanges(t, f, "create")
}

func TestRemove(t *testing.T) {
	t.Parallel()
	f, g, _ := onA(t)
	must(t, g.Remove(t.Context(), table))
	must(t, g.Remove(t.Context(), table))
	if len(f.devices) != 0 {
		t.Errorf("left: %v", f.devices)
	}
	f, g, _ = onA(t)
	f.breakAt(1, faultKind{})
	if err := g.Remove(t.Context(), table); !errors.Is(err, errFault) || len(f.calls) != 1 {
		t.Errorf("an error that is not about its being open: %v after %s", err, dumpCalls(f))
	}
}

// A table that is open is removed as soon as it is not.
func TestRemoveBusy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, g, _ := onA(t)
		f.devices[table].OpenCount = 1
		f.before = func(op, _ string) {
			if f.mu.Lock(); op == "remove" && len(f.calls) == 3 {
				f.devices[table].OpenCount = 0
			}
			f.mu.Unlock()
		}
		start := time.Now()
		must(t, g.Remove(t.Context(), table))
		if len(f.devices) != 0 || len(f.calls) != 4 || time.Since(start) != 3*pollEvery {
			t.Errorf("%d devices after %s and %v", len(f.devices), dumpCalls(f), time.Since(start))
		}
	})
}

func TestRemovePending(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, g, o := onA(t)
		f.devices[table].OpenCount = 1
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := g.Remove(ctx, table); !errors.Is(err, volume.ErrPending) || !errors.Is(err, dm.ErrBusy) {
			t.Errorf("got %v", err)
		}
		must(t, g.Feed(table, pathB, false, o.proof)) // nothing is held any more
		f.wantWell(t, table, pathB)
	})
}

func TestList(t *testing.T) {
	t.Parallel()
	f, g, _ := onA(t)
	for _, name := range []string{"vg-root", "mpatha", "xholdfast-1", "holdfast-other"} {
		_, err := f.Create(name, "U-"+name)
		must(t, err)
	}
	must(t, g.Hold(table, pathA.dev()))
	got, err := g.List()
	if want := map[string]uint32{table: 1, "holdfast-other": 0}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	f.breakAt(1, faultKind{})
	if got, err := g.List(); !errors.Is(err, errFault) || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
	empty, _ := newFake().guards()
	if got, err := empty.List(); err != nil || len(got) != 0 {
		t.Errorf("no devices: %v, %v", got, err)
	}
}

// While a swap waits in its suspend, one more is refused, Hold leaves the table
// alone, Ensure and Remove wait as long as their context, giving up and the
// other volumes go on.
func TestExclusion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, g, o := onA(t)
		const other = "holdfast-other"
		_, err := g.Ensure(t.Context(), other, pathA, false, right)
		must(t, err)
		suspended := make(chan struct{})
		f.before = func(op, name string) {
			if op == "suspend" && name == table {
				<-suspended
			}
		}
		fed, ensured := make(chan error, 1), make(chan error, 1)
		go func() { fed <- g.Feed(table, pathB, false, o.proof) }()
		synctest.Wait()

		if err := g.Feed(table, pathB, false, right); !errors.Is(err, volume.ErrBusy) {
			t.Errorf("a second feed: %v", err)
		}
		f.mend()
		must(t, g.Hold(table, pathA.dev()))
		wantChanges(t, f)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := g.Ensure(ctx, table, pathB, false, right); !errors.Is(err, volume.ErrPending) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ensure: %v", err)
		}
		if err := g.Remove(ctx, table); !errors.Is(err, volume.ErrPending) {
			t.Errorf("remove: %v", err)
		}
		must(t, g.Feed(other, pathC, false, right))
		f.wantWell(t, other, pathC)
		must(t, g.GiveUp(table))
		wantGivenUp(t, f, pathA)

		go func() {
			_, err := g.Ensure(t.Context(), table, pathC, false, right)
			ensured <- err
		}()
		synctest.Wait()
		close(suspended)
		must(t, <-fed)
		must(t, <-ensured)
		f.wantWell(t, table, pathC)
		if len(g.held) != 0 {
			t.Errorf("still held: %v", g.held)
		}
	})
}

// A swap that is just between suspend and resume is not interfered with.
func TestGiveUpInSwap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, g, o := onA(t)
		resumed := make(chan struct{})
		f.before = func(op, _ string) {
			if op == "resume" {
				<-resumed
			}
		}
		fed := make(chan error, 1)
		go func() { fed <- g.Feed(table, pathB, false, o.proof) }()
		synctest.Wait()
		if err := g.GiveUp(table); !errors.Is(err, volume.ErrBusy) {
			t.Errorf("got %v", err)
		}
		close(resumed)
		must(t, <-fed)
		f.wantWell(t, table, pathB)
		must(t, g.GiveUp(table))
		wantGivenUp(t, f, pathB)
	})
}

// Many callers, several volumes: every call ends in nothing, or in ErrBusy, and
// the tables are well in the end. This is for the race detector.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	f := newFake()
	g := New(f, "/dev")
	g.open = func(Path) (io.Closer, error) { return io.NopCloser(nil), nil }
	var wg sync.WaitGroup
	for i := range 24 {
		name := fmt.Sprintf("holdfast-%d", i%3)
		p := []Path{pathA, pathB}[i%2]
		wg.Go(func() {
			if _, err := g.Ensure(t.Context(), name, p, false, right); err != nil {
				t.Error(err)
			}
			if err := g.Feed(name, pathC, false, right); err != nil && !errors.Is(err, volume.ErrBusy) {
				t.Error(err)
			}
			if _, err := g.List(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 3 {
		name := fmt.Sprintf("holdfast-%d", i)
		must(t, g.Feed(name, pathA, false, right))
		f.wantWell(t, name, pathA)
	}
}

// right is a proof that is always given.
func right() error { return nil }

// A node is opened only if it is the block device of that number.
func TestOpenPath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for node, want := range map[string]error{
		filepath.Join(dir, "none"): fs.ErrNotExist,
		file:                       volume.ErrUnavailable,
		dir:                        volume.ErrUnavailable,
		"/dev/null":                volume.ErrUnavailable, // a character device, of the number asked for
	} {
		f, err := openPath(Path{Node: node, Major: 1, Minor: 3})
		if !errors.Is(err, want) || f != nil {
			t.Errorf("%s: got %v, %v, want %v", node, f, err, want)
		}
	}
}

// A device that cannot be opened, or is not the right one, changes nothing.
func TestFeedNotOpened(t *testing.T) {
	t.Parallel()
	f := newFake()
	g, o := f.guards()
	_, err := g.Ensure(t.Context(), table, pathA, false, o.proof)
	must(t, err)
	f.mend()
	g.open = openPath
	b := pathB
	b.Node = filepath.Join(t.TempDir(), "none")
	if err := g.Feed(table, b, false, right); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), table) {
		t.Errorf("got %v", err)
	}
	wantChanges(t, f)
	f.wantWell(t, table, pathA)
}

// A table that does not queue any more goes on over its path, and fails with it.
func TestStopQueueing(t *testing.T) {
	t.Parallel()
	f, g, o := onA(t)
	f.mend()
	must(t, g.StopQueueing(table))
	wantChanges(t, f, "message")
	if d := f.look(table); d.live == nil || d.live.queues || !d.live.active || d.live.path != pathA.dev() {
		t.Errorf("%+v with table %+v", d.Device, d.live)
	}
	must(t, g.StopQueueing(table))
	must(t, g.Feed(table, pathA, false, o.proof))
	f.wantWell(t, table, pathA)
	must(t, g.StopQueueing("holdfast-none"))
}
