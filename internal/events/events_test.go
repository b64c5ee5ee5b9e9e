package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// world has subjects that a test changes, and remembers what was told.
type world struct {
	mu       sync.Mutex
	subjects []Subject
	told     []string
	err      error
	takes    time.Duration // that an event takes
	tried    int
}

func inBubble(t *testing.T, body func(w *world, pass func(time.Duration))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go New(Options{
			Subjects: func() []Subject {
				w.mu.Lock()
				defer w.mu.Unlock()
				return slices.Clone(w.subjects)
			},
			Tell: func(_ context.Context, pv string, e Event) error {
				w.mu.Lock()
				w.tried++
				takes := w.takes
				w.mu.Unlock()
				time.Sleep(takes)
				w.mu.Lock()
				defer w.mu.Unlock()
				if w.err == nil {
					w.told = append(w.told, pv+" "+e.Reason)
				}
				return w.err
			},
			Log: slog.New(slog.DiscardHandler),
		}).Run(ctx)
		body(w, func(d time.Duration) { time.Sleep(d); synctest.Wait() })
	})
}

// do changes the world.
func (w *world) do(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.told)
}

// are says what there is now.
func (w *world) are(subjects []Subject) { w.do(func() { w.subjects = subjects }) }

func (w *world) expect(t *testing.T, want ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if diff := cmp.Diff(want, w.told); diff != "" {
		t.Errorf("told, -want +got:\n%s", diff)
	}
	w.told = nil
}

func waits(id string) Subject {
	return Subject{ID: id, State: Waits, Since: time.Now(), PersistentVolume: "pv-" + id}
}
func fine(id string) Subject { return Subject{ID: id, State: Fine, PersistentVolume: "pv-" + id} }

func TestOutage(t *testing.T) {
	t.Parallel()
	inBubble(t, func(w *world, pass func(time.Duration)) {
		w.are([]Subject{fine("a"), {ID: "nqn.x", State: Fine, Volumes: 1}})
		pass(time.Minute)
		w.expect(t)
		w.are([]Subject{waits("a"), {ID: "nqn.x", State: Waits, Since: time.Now(), Volumes: 1}})
		pass(settleTime - every)
		w.expect(t)
		pass(10 * time.Minute)
		w.expect(t, "pv-a VolumeWaiting", " StorageDisconnected")
		w.are([]Subject{fine("a"), {ID: "nqn.x", State: Fine, Volumes: 1}})
		pass(10 * time.Minute)
		w.expect(t, "pv-a VolumeResumed", " StorageReconnected")
	})
}

// What a restart of the target takes is no event.
func TestShortOutage(t *testing.T) {
	t.Parallel()
	inBubble(t, func(w *world, pass func(time.Duration)) {
		for range 100 {
			w.are([]Subject{waits("a")})
			pass(settleTime - 2*every)
			w.are([]Subject{fine("a")})
			pass(time.Minute)
		}
		w.expect(t)
	})
}

// A volume that goes on and off all the time is told a few times, and then once in a
// while; what needs somebody is told always.
func TestOnAndOff(t *testing.T) {
	t.Parallel()
	inBubble(t, func(w *world, pass func(time.Duration)) {
		for range 60 {
			w.are([]Subject{waits("a")})
			pass(30 * time.Second)
			w.are([]Subject{fine("a")})
			pass(30 * time.Second)
		}
		if n := w.count(); n < often || n > often+8 {
			t.Errorf("%d events in an hour", n)
		}
		w.do(func() { w.told = nil })
		w.are([]Subject{{ID: "a", State: Refused, Why: "another UUID", PersistentVolume: "pv-a"}})
		pass(10 * time.Second)
		w.expect(t, "pv-a VolumeRefused")
	})
}

// A volume that is not mounted for what it holds is told once for all attempts, and
// the end of it, too.
func TestUnusable(t *testing.T) {
	t.Parallel()
	inBubble(t, func(w *world, pass func(time.Duration)) {
		holds := Subject{ID: "a", State: Unusable, Why: "it holds xfs", PersistentVolume: "pv-a"}
		w.are([]Subject{holds})
		pass(20 * time.Minute)
		w.expect(t, "pv-a VolumeNotMounted")
		if e := words(told{}, holds); !strings.Contains(e.Message, holds.Why+".") || !e.Warning {
			t.Errorf("%+v", e)
		}
		w.are([]Subject{fine("a")})
		pass(time.Minute)
		w.expect(t, "pv-a VolumeResumed")
	})
}

// A cluster that does not answer is told what is still so when it does, and is not
// asked all the time.
func TestClusterAway(t *testing.T) {
	t.Parallel()
	inBubble(t, func(w *world, pass func(time.Duration)) {
		w.do(func() { w.err, w.takes = errors.New("no route to host"), 10*time.Second })
		w.are([]Subject{waits("a"), waits("b"), fine("c")})
		pass(30 * time.Minute)
		w.do(func() {
			if w.tried < 20 || w.tried > 80 {
				t.Errorf("%d attempts in half an hour", w.tried)
			}
			w.subjects[1] = fine("b")
			w.err, w.takes = nil, 0
		})
		pass(2 * time.Minute)
		w.expect(t, "pv-a VolumeWaiting")
	})
}

// A volume that is gone and comes back is a new one.
func TestForgotten(t *testing.T) {
	t.Parallel()
	inBubble(t, func(w *world, pass func(time.Duration)) {
		w.are([]Subject{waits("a")})
		pass(time.Minute)
		w.expect(t, "pv-a VolumeWaiting")
		w.are(nil)
		pass(time.Minute)
		w.are([]Subject{fine("a")})
		pass(time.Minute)
		w.expect(t)
	})
}

// Two hundred volumes of one host are no flood.
func TestMany(t *testing.T) {
	t.Parallel()
	inBubble(t, func(w *world, pass func(time.Duration)) {
		var all []Subject
		for i := range 200 {
			all = append(all, waits(fmt.Sprint(i)))
		}
		w.are(all)
		pass(settleTime + 5*time.Second)
		if n := w.count(); n == 0 || n > 60 {
			t.Errorf("%d events in the first seconds", n)
		}
		pass(time.Minute)
		if n := w.count(); n != 200 {
			t.Errorf("%d events", n)
		}
	})
}

// Every state is told in words of its own, which say what happens to the data.
func TestWords(t *testing.T) {
	t.Parallel()
	var seen []string
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	before := told{state: Waits, since: start, at: start}
	for _, s := range []State{Fine, Waits, Refused, Withdrawn, Failing, Lost} {
		e := words(before, Subject{ID: "x", State: s, Since: start.Add(90 * time.Second), Why: "another UUID"})
		if e.Reason == "" || slices.Contains(seen, e.Reason) || e.Message == "" || e.Warning != (s != Fine) {
			t.Errorf("%s: %+v", s, e)
		}
		seen = append(seen, e.Reason)
	}
	e := words(before, Subject{State: Fine, Since: start.Add(90 * time.Second)})
	if !strings.Contains(e.Message, "lasted 1m30s") || !strings.Contains(e.Message, "Nothing was lost") {
		t.Errorf("%+v", e)
	}
	if e := words(told{state: Failing}, Subject{State: Fine}); strings.Contains(e.Message, "Nothing was lost") {
		t.Errorf("after an end: %+v", e)
	}
	if e := words(told{}, Subject{State: Refused, Why: "another UUID"}); !strings.Contains(e.Message, "another UUID") {
		t.Errorf("%+v", e)
	}
}
