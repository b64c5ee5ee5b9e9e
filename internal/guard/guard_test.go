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
	"slices"
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
	g, o := onAOf(t, f)
	return f, g, o
}

func onAOf(t *testing.T, f *fake) (*Guards, *opener) {
	t.Helper()
	g, o := f.guards()
	if _, err := g.Ensure(t.Context(), table, pathA, false, o.proof); err != nil {
		t.Fatal(err)
	}
	f.wantWell(t, table, pathA)
	f.mend() // forgets the calls
	return g, o
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
	wantChanges(t, f, "create", "create", "load", "resume", "create", "load", "resume", "load", "resume", "message", "load", "suspend", "resume", "load", "message", "message")
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
	must(t, o.balanced())
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
	nothing := func(*fake) {}
	lost := func(f *fake) { lose(f, pathA) }
	held := func(f *fake) { lose(f, pathA); holdNow(f) }
	tests := map[string]struct {
		before func(f *fake)
		to     Path
		want   []string
	}{
		"nothing to do":    {nothing, pathA, nil},
		"held":             {held, pathA, []string{"message", "message", "load", "suspend", "resume", "load", "message", "message"}},
		"held, another":    {held, pathB, []string{"message", "load", "suspend", "resume", "message", "load", "suspend", "resume", "load", "suspend", "resume", "message", "load", "suspend", "resume", "load", "message", "message"}},
		"lost":             {lost, pathA, []string{"message", "message", "load", "suspend", "resume", "load", "message", "message"}},
		"lost, another":    {lost, pathB, []string{"message", "load", "suspend", "resume", "message", "load", "suspend", "resume", "load", "suspend", "resume", "message", "load", "suspend", "resume", "load", "message", "message"}},
		"another":          {nothing, pathB, []string{"message", "load", "suspend", "resume", "message", "message", "load", "suspend", "resume", "load", "suspend", "resume", "message", "load", "suspend", "resume", "load", "message", "message"}},
		"given up":         {func(f *fake) { giveUpNow(f) }, pathA, []string{"message", "message", "load", "suspend", "resume", "load", "message", "message"}},
		"given up, held":   {func(f *fake) { held(f); giveUpNow(f) }, pathA, []string{"message", "message", "load", "suspend", "resume", "load", "message", "message"}},
		"grown":            {nothing, grown, []string{"message", "load", "suspend", "resume", "load", "suspend", "resume", "load", "suspend", "resume", "message", "load", "suspend", "resume", "load", "message", "message"}},
		"table suspended":  {func(f *fake) { suspendNow(f, table) }, pathA, []string{"load", "suspend", "resume", "load", "resume", "message", "load", "suspend", "resume", "load", "message", "message"}},
		"leg suspended":    {func(f *fake) { suspendNow(f, table+legSuffix) }, pathA, []string{"message", "load", "resume", "load", "suspend", "resume", "load", "message", "message"}},
		"table loaded":     {loadTable, pathA, []string{"clear"}},
		"leg loaded":       {loadLeg, pathA, []string{"load", "suspend", "resume", "load", "message", "message"}},
		"of one path only": {oldTable, pathA, []string{"create", "load", "resume", "load", "suspend", "resume", "message", "load", "suspend", "resume", "load", "message", "message"}},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, g, o := onA(t)
			c.before(f)
			f.set(func() { clear(f.dead) })
			waits := f.send(table)
			f.mend()
			must(t, g.Feed(table, c.to, false, o.proof))
			wantChanges(t, f, c.want...)
			f.wantWell(t, table, c.to)
			if s, err := g.State(table); err != nil || !s.Whole(c.to) {
				t.Errorf("%+v, %v", s, err)
			}
			if x := f.send(table); x.end != c.to.dev() {
				t.Errorf("I/O ended at %q", x.end)
			}
			if waits.end == "" {
				t.Error("I/O still waits")
			}
			must(t, o.balanced())
		})
	}
}

// lose has a disk fail its I/O, with one in the table that finds out.
func lose(f *fake, p Path) {
	f.set(func() { f.dead[p.dev()] = true })
	f.send(table)
}

func (f *fake) do(change func(g *Guards) error) {
	g, _ := f.guards()
	if err := change(g); err != nil {
		panic(err)
	}
}

func holdNow(f *fake)                 { f.do(func(g *Guards) error { return g.Hold(table) }) }
func giveUpNow(f *fake)               { f.do(func(g *Guards) error { return g.GiveUp(table) }) }
func suspendNow(f *fake, name string) { f.do(func(*Guards) error { return f.Suspend(name) }) }

// loadLeg is what a Feed was killed in that was to lead to C.
func loadLeg(f *fake) {
	f.do(func(*Guards) error { return f.Load(table+legSuffix, linearTable(pathC, false)) })
}

func loadTable(f *fake) {
	leg := f.look(table + legSuffix)
	f.do(func(*Guards) error {
		return f.Load(table, multipathTable(pathC.dev(), leg.Number(), pathC.sectors(), false))
	})
}

// oldTable is one of an earlier version, without a leg.
func oldTable(f *fake) {
	f.set(func() {
		delete(f.devices, table+legSuffix)
		t := f.devices[table].live
		t.paths, t.failed = t.paths[:1], [2]bool{t.failed[0], true}
	})
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
	if err := g.Hold(table); !errors.Is(err, dm.ErrNotFound) {
		t.Errorf("hold: %v", err)
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	f, g, o := onA(t)
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
	if !base.On(pathA) || base.On(pathB) || !base.Whole(pathA) || base.Whole(pathB) || base.Whole(grown) {
		t.Error("well: not on A alone")
	}
	f.devices[table].OpenCount = 2
	expect("open", func(s *State) { s.OpenCount = 2 })
	lose(f, pathA)
	expect("lost", func(s *State) { s.Active, s.Untidy = false, true })
	must(t, g.Hold(table))
	expect("held", func(s *State) { s.Holds = true })
	if base.On(pathA) {
		t.Error("held: on A")
	}
	must(t, g.Feed(table, pathB, false, o.proof))
	expect("fed", func(s *State) { s.Path, s.Active, s.Holds, s.Untidy = pathB.dev(), true, false, false })
	must(t, g.GiveUp(table))
	expect("given up", func(s *State) { s.Active, s.Queues, s.Untidy = false, false, true })
	must(t, f.Load(table+legSuffix, linearTable(pathA, false)))
	expect("loaded", func(s *State) { s.NewTable = true })
	must(t, f.Suspend(table))
	expect("suspended", func(s *State) { s.Suspended, s.Queues = true, true })
}

// Events are those of the list, and a list that is the same is the same map.
func TestListAgain(t *testing.T) {
	t.Parallel()
	_, g, _ := onA(t)
	list := func() map[string]uint32 {
		t.Helper()
		m, err := g.List()
		must(t, err)
		return m
	}
	before := list()[table]
	must(t, g.Hold(table))
	if after := list()[table]; after == before {
		t.Error("an event was missed")
	}
	must(t, g.Remove(t.Context(), table))
	if m := list(); len(m) != 0 {
		t.Errorf("got %v", m)
	}
}

// What is held collects in the leg, whatever was lost, and goes on when the disk is
// there; what was sent below before stays there.
func TestHold(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		before func(*fake)
		want   []string // changes
		where  string   // what comes waits
	}{
		"well":            {func(*fake) {}, []string{"suspend", "resume", "message", "message"}, table + legSuffix},
		"lost":            {func(f *fake) { lose(f, pathA) }, []string{"suspend", "resume", "message"}, table + legSuffix},
		"silent":          {func(f *fake) { f.set(func() { f.silent[pathA.dev()] = true }); f.send(table) }, []string{"suspend", "resume", "message", "message"}, table + legSuffix},
		"held":            {holdNow, nil, table + legSuffix},
		"begun":           {func(f *fake) { suspendNow(f, table+legSuffix) }, []string{"message", "resume", "message"}, table + legSuffix},
		"table suspended": {func(f *fake) { suspendNow(f, table) }, nil, table},
		"fed with B":      {func(f *fake) { f.do(feedB) }, []string{"suspend", "resume", "message", "message"}, table + legSuffix},
		"of one path":     {oldTable, []string{"message"}, table},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, g, o := onA(t)
			c.before(f)
			f.mend()
			must(t, g.Hold(table))
			wantChanges(t, f, c.want...)
			x := f.send(table)
			if x.at != c.where || x.end != "" {
				t.Errorf("I/O is at %q, %q: %s", x.at, x.end, f.text(table))
			}
			must(t, g.Hold(table))
			wantChanges(t, f)
			f.set(func() { clear(f.dead); clear(f.silent) })
			must(t, g.Feed(table, pathC, false, o.proof))
			if x.end == "" || x.end == "EIO" {
				t.Errorf("I/O ended %q", x.end)
			}
			f.wantWell(t, table, pathC)
		})
	}
	g, _ := newFake().guards()
	if err := g.Hold(table); !errors.Is(err, dm.ErrNotFound) {
		t.Errorf("no table: %v", err)
	}
}

func feedB(g *Guards) error { return g.Feed(table, pathB, false, right) }

// A disk that has I/O below and never answers is left behind: the next is reached
// through the leg, until the table can be put over it.
func TestLeftBusy(t *testing.T) {
	t.Parallel()
	f, g, o := onA(t)
	f.set(func() { f.silent[pathA.dev()] = true })
	stuck := f.send(table)
	must(t, g.Hold(table))
	must(t, g.Feed(table, pathB, false, o.proof))
	if s, err := g.State(table); err != nil || !s.On(pathB) || !s.Untidy || stuck.end != "" {
		t.Errorf("%+v, %v; what is stuck ended %q", s, err, stuck.end)
	}
	if x := f.send(table); x.end != pathB.dev() {
		t.Errorf("I/O is at %q, %q", x.at, x.end)
	}
	f.mend()
	must(t, g.Hold(table))
	wantChanges(t, f, "load", "message", "suspend", "resume", "message")
	x := f.send(table)
	if x.at != table+legSuffix || x.end != "" {
		t.Errorf("I/O is at %q, %q", x.at, x.end)
	}
	f.set(func() { f.silent[pathA.dev()], f.dead[pathA.dev()] = false, true })
	must(t, g.Feed(table, pathC, false, o.proof))
	f.wantWell(t, table, pathC)
	if stuck.end != pathC.dev() || x.end != pathC.dev() {
		t.Errorf("ended %q, %q", stuck.end, x.end)
	}
}

// Read-ahead is kept like everything else. Without a target that does so, what is no
// read-ahead is kept all the same.
func TestHoldReadAhead(t *testing.T) {
	t.Parallel()
	for _, noDelay := range []bool{false, true} {
		f := newFake()
		f.noDelay = noDelay
		g, o := onAOf(t, f)
		lose(f, pathA)
		must(t, g.Hold(table))
		x := f.readAhead(table)
		s, err := g.State(table)
		if err != nil || s.Holds == noDelay || x.end != "" {
			t.Errorf("without delay %v: %+v, %v; read-ahead ended %q", noDelay, s, err, x.end)
		}
		y := f.send(table)
		must(t, g.Hold(table))
		must(t, g.Feed(table, pathB, false, o.proof))
		f.wantWell(t, table, pathB)
		if x.end != pathB.dev() || y.end != pathB.dev() {
			t.Errorf("without delay %v: ended %q, %q", noDelay, x.end, y.end)
		}
	}
}

// What does not queue, because a suspend was interrupted, is held all the same.
func TestHoldNotQueueing(t *testing.T) {
	t.Parallel()
	f, g, _ := onA(t)
	must(t, f.Message(table, "fail_if_no_path"))
	f.set(func() { f.dead[pathA.dev()] = true })
	f.mend()
	must(t, g.Hold(table))
	wantChanges(t, f, "message", "suspend", "resume", "message", "message")
	if x := f.send(table); x.end != "" {
		t.Errorf("I/O ended %q", x.end)
	}
}

// A leg that leads to the disk and that somebody else has open is not suspended: that
// would wait for what is read of a dead disk.
func TestHoldOpenLeg(t *testing.T) {
	t.Parallel()
	for noDelay, want := range map[bool][]string{true: {"message"}, false: {"suspend", "resume", "message", "message"}} {
		f := newFake()
		f.noDelay = noDelay
		g, _ := onAOf(t, f)
		f.devices[table+legSuffix].OpenCount = 2
		must(t, g.Hold(table))
		wantChanges(t, f, want...)
	}
}

// A table whose disk fails is one where writes wait, before anybody does anything;
// what is read has to wait in the table itself, and takes the path through the leg
// away from what comes later. Feed and Hold find all of it.
func TestStandsBy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		read bool
		then func(g *Guards, o *opener) error
		end  string
	}{
		"written, fed":         {false, func(g *Guards, o *opener) error { return g.Feed(table, pathA, false, o.proof) }, pathA.dev()},
		"written, fed another": {false, func(g *Guards, o *opener) error { return g.Feed(table, pathB, false, o.proof) }, pathB.dev()},
		"written, held":        {false, func(g *Guards, _ *opener) error { return g.Hold(table) }, ""},
		"written, given up":    {false, func(g *Guards, _ *opener) error { return g.GiveUp(table) }, "EIO"},
		"read, fed":            {true, func(g *Guards, o *opener) error { return g.Feed(table, pathA, false, o.proof) }, pathA.dev()},
		"read, held":           {true, func(g *Guards, _ *opener) error { return g.Hold(table) }, ""},
		"read, given up":       {true, func(g *Guards, _ *opener) error { return g.GiveUp(table) }, "EIO"},
	} {
		f, g, o := onA(t)
		lose(f, pathA)
		first, second := f.send(table), &fakeIO{}
		if c.read {
			second = f.sendIO(&fakeIO{table: table, at: table, read: true})
		}
		leg := f.look(table + legSuffix).Name
		if s, err := g.State(table); err != nil || first.at != leg || second.end != "" || s.Active || s.Holds || f.look(table).live.failed[1] != c.read {
			t.Errorf("%s: at %q, %+v, %+v, %v", name, first.at, second, s, err)
		}
		f.set(func() { clear(f.dead) })
		must(t, c.then(g, o))
		if first.end != c.end || c.read && second.end != c.end {
			t.Errorf("%s: ended %q and %q, want %q", name, first.end, second.end, c.end)
		}
		if s, err := g.State(table); c.end == "" && (err != nil || !s.Holds || first.at != leg) {
			t.Errorf("%s: at %q, %+v, %v", name, first.at, s, err)
		}
	}
}

// A path that works again does not get back what was sent to the leg meanwhile, and
// what is sent next: the table stays with the path in use. That is no table that
// serves.
func TestStaysInUse(t *testing.T) {
	t.Parallel()
	f, g, o := onA(t)
	lose(f, pathA)
	x := f.send(table)
	f.set(func() { clear(f.dead) })
	must(t, f.Message(table, "reinstate_path "+pathA.dev()))
	y := f.send(table)
	if s, err := g.State(table); err != nil || s.Active || s.On(pathA) || !s.Untidy || x.end+y.end != "" {
		t.Errorf("%+v, %v; ended %q, %q", s, err, x.end, y.end)
	}
	must(t, g.Feed(table, pathA, false, o.proof))
	f.wantWell(t, table, pathA)
	if x.end != pathA.dev() || y.end != pathA.dev() {
		t.Errorf("ended %q, %q", x.end, y.end)
	}
}

// A suspend that a signal interrupts is tried again, and the table queues again
// whatever comes of it.
func TestInterruptedSuspend(t *testing.T) {
	t.Parallel()
	for _, times := range []int{1, suspendTries - 1, suspendTries} {
		f, g, o := onA(t)
		f.interrupt = times
		err := g.Feed(table, grown, false, o.proof)
		if all := times == suspendTries; errors.Is(err, unix.EINTR) != all || err != nil && !all {
			t.Errorf("interrupted %d times: %v", times, err)
		}
		if !f.look(table).live.queues {
			t.Errorf("interrupted %d times: the table does not queue", times)
		}
	}
}

// What somebody reads of a leg that keeps it fails when the table is removed.
func TestRemoveRead(t *testing.T) {
	t.Parallel()
	f, g, _ := onA(t)
	must(t, g.Hold(table))
	must(t, g.Remove(t.Context(), table))
	if len(f.devices) != 0 {
		t.Errorf("left: %v", f.devices)
	}
	wantChanges(t, f, "suspend", "resume", "message", "message", "remove", "suspend", "load", "resume", "remove", "remove")
}

func TestGiveUp(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		before func(f *fake)
		want   []string
	}{
		"well":          {func(*fake) {}, []string{"message", "message", "message", "suspend", "load", "resume"}},
		"lost":          {func(f *fake) { lose(f, pathA) }, []string{"message", "message", "suspend", "load", "resume"}},
		"held":          {holdNow, []string{"message", "message", "suspend", "load", "resume"}},
		"loaded":        {loadLeg, []string{"message", "message", "message", "suspend", "load", "resume"}},
		"held, loaded":  {func(f *fake) { holdNow(f); loadLeg(f) }, []string{"message", "message", "suspend", "load", "resume"}},
		"suspended":     {func(f *fake) { suspendNow(f, table) }, []string{"clear", "resume", "message", "message", "message", "suspend", "load", "resume"}},
		"leg suspended": {func(f *fake) { suspendNow(f, table+legSuffix) }, []string{"message", "message", "message", "load", "resume"}},
		"of one path":   {oldTable, []string{"message", "message"}},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, g, o := onA(t)
			c.before(f)
			x := f.send(table)
			f.mend()
			must(t, g.GiveUp(table))
			wantChanges(t, f, c.want...)
			wantGivenUp(t, f)
			if x.end == "" || x.end == pathC.dev() {
				t.Errorf("what waited ended %q", x.end)
			}
			must(t, g.GiveUp(table))
			must(t, g.Feed(table, pathB, false, o.proof))
			f.wantWell(t, table, pathB)
		})
	}
}

// wantGivenUp fails unless nothing waits and what comes fails.
func wantGivenUp(t *testing.T, f *fake) {
	t.Helper()
	for _, flush := range []bool{false, true} {
		if x := f.sendIO(&fakeIO{table: table, at: table, flush: flush}); x.end != "EIO" {
			t.Fatalf("I/O ends %q at %s: %s", x.end, x.at, f.text(table))
		}
	}
	for _, x := range f.ios {
		if x.end == "" && !f.silent[f.look(x.at).live.path] {
			t.Fatalf("I/O waits at %s: %s", x.at, f.text(table))
		}
		if x.end == "done" && !f.noDelay {
			t.Fatalf("a flush was taken for done: %s", f.text(table))
		}
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
	// What a call was killed in that had removed the table already.
	f, g, _ = onA(t)
	must(t, f.Remove(table))
	if _, err := g.State(table); !errors.Is(err, dm.ErrNotFound) {
		t.Errorf("legs alone: %v", err)
	}
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
		if len(f.devices) != 0 || len(f.calls) != 12 || time.Since(start) != 3*pollEvery {
			t.Errorf("%d devices after %s and %v", len(f.devices), dumpCalls(f), time.Since(start))
		}
	})
}

// One volume after the other is led to another disk, and then made as it has to be.
func TestTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		want := []string{
			table + legSuffix, secondTable + legSuffix, thirdTable + legSuffix, // led
			table, table + legSuffix, secondTable, secondTable + legSuffix, thirdTable, thirdTable + legSuffix,
		}
		if did, _ := feedSideBySide(t, 0); !slices.Equal(did, want) {
			t.Errorf("suspended %q, want %q", did, want)
		}
	})
}

// One that does not get on holds nobody up for long.
func TestTurnsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		if _, took := feedSideBySide(t, time.Minute); took > 2*turnWait+100*time.Millisecond {
			t.Errorf("the others took %v", took)
		}
	})
}

const (
	secondTable = "holdfast-second-g1"
	thirdTable  = "holdfast-third-g1"
)

// feedSideBySide leads three volumes to another disk, of which the first begins first
// and is stuck for some time in its first suspend. It returns what was suspended, but
// for the walls, and how long the others took.
func feedSideBySide(t *testing.T, stuck time.Duration) (did []string, others time.Duration) {
	t.Helper()
	f := newFake()
	g, o := f.guards()
	names := []string{table, secondTable, thirdTable}
	for _, name := range names {
		_, err := g.Ensure(t.Context(), name, pathA, false, o.proof)
		must(t, err)
	}
	var mu sync.Mutex
	f.before = func(op, name string) {
		if op != "suspend" || strings.HasSuffix(name, wallSuffix) {
			return
		}
		mu.Lock()
		did = append(did, name)
		first := len(did) == 1
		mu.Unlock()
		if time.Sleep(10 * time.Millisecond); first {
			time.Sleep(stuck)
		}
	}
	began := time.Now()
	var done sync.WaitGroup
	for i, name := range names {
		done.Go(func() {
			time.Sleep(time.Duration(i) * time.Millisecond)
			if err := g.Feed(name, pathB, false, o.proof); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if i > 0 {
				others = time.Since(began)
			}
		})
	}
	done.Wait()
	return did, others
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
	for _, name := range []string{"vg-root", "mpatha", "xholdfast-1", "holdfast-other", "holdfast-left-g1-leg"} {
		_, err := f.Create(name, "U-"+name)
		must(t, err)
	}
	must(t, g.Hold(table))
	got, err := g.List()
	if want := map[string]uint32{table: 5, "holdfast-other": 0, "holdfast-left-g1": 0}; err != nil || !reflect.DeepEqual(got, want) {
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
			if op == "suspend" && name == table+legSuffix {
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
		must(t, g.Hold(table))
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
		if err := g.GiveUp(table); !errors.Is(err, volume.ErrBusy) {
			t.Errorf("give up: %v", err)
		}
		wantGivenUp(t, f)

		go func() {
			_, err := g.Ensure(t.Context(), table, pathC, false, right)
			ensured <- err
		}()
		synctest.Wait()
		close(suspended)
		must(t, <-fed)
		must(t, <-ensured)
		f.wantWell(t, table, pathC)
		if len(g.locked) != 0 {
			t.Errorf("still held: %v", g.locked)
		}
	})
}

// What is given up while a swap is between suspend and resume is not given up when
// that has ended, and says so.
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
		must(t, g.GiveUp(table))
		wantGivenUp(t, f)
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
	must(t, g.StopQueueing(table))
	wantChanges(t, f, "message", "message", "suspend", "load", "resume")
	if x := f.send(table); x.end != pathA.dev() {
		t.Errorf("I/O ended %q", x.end)
	}
	lose(f, pathA)
	wantGivenUp(t, f)
	if x := f.flush(table); x.end != "EIO" {
		t.Errorf("a flush ended %q", x.end)
	}
	must(t, g.StopQueueing(table))
	must(t, g.Feed(table, pathB, false, o.proof))
	f.wantWell(t, table, pathB)
	must(t, g.Hold(table))
	x := f.send(table)
	must(t, g.StopQueueing(table))
	if x.end != "EIO" {
		t.Errorf("what was held ended %q", x.end)
	}
	wantGivenUp(t, f)
	must(t, g.StopQueueing("holdfast-none"))
}
