package shutdown

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeBus is logind in memory. It writes down what happens, in order.
type fakeBus struct {
	story     *story
	signals   chan bool
	preparing bool
	limit     time.Duration
	refuse    bool
}

type story struct {
	mu    sync.Mutex
	lines []string
}

func (s *story) tell(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, line)
}

func (s *story) want(t *testing.T, lines ...string) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(lines, s.lines) {
		t.Errorf("got %q\nwant %q", s.lines, lines)
	}
	s.lines = nil
}

type fakeLock struct{ once func() error }

func (l fakeLock) Close() error { return l.once() }

func (b *fakeBus) Delay(context.Context) (io.Closer, error) {
	if b.refuse {
		return nil, errors.New("no")
	}
	b.story.tell("lock")
	closed := false
	return fakeLock{func() error {
		if closed {
			return errors.New("closed")
		}
		closed = true
		b.story.tell("release")
		return nil
	}}, nil
}

func (b *fakeBus) MaxDelay(context.Context) (time.Duration, error) {
	if b.limit == 0 {
		return 0, errors.New("no such property")
	}
	return b.limit, nil
}

func (b *fakeBus) Preparing(context.Context) (bool, error) { return b.preparing, nil }
func (b *fakeBus) Signals() <-chan bool                    { return b.signals }
func (b *fakeBus) Close() error                            { b.story.tell("close"); return nil }

// handler takes as long as it is told, or until its time is over.
type handler struct {
	story *story
	takes time.Duration
}

func (h handler) Begin(ctx context.Context) {
	h.story.tell("begin")
	select {
	case <-time.After(h.takes):
		h.story.tell("done")
	case <-ctx.Done():
		h.story.tell("over")
	}
}

func (h handler) Cancel() { h.story.tell("cancel") }

// rig runs a listener in a bubble; connect returns the buses one after the other,
// and an error for nil or when there are no more.
func rig(t *testing.T, takes time.Duration, buses ...*fakeBus) (s *story, said *strings.Builder, stop func()) {
	s, said = &story{}, &strings.Builder{}
	l := New(Options{Socket: "/run/bus", Handler: handler{s, takes}, Log: slog.New(slog.NewTextHandler(said, nil))})
	l.connect = func(context.Context, string) (bus, error) {
		if len(buses) == 0 || buses[0] == nil {
			buses = buses[min(1, len(buses)):]
			return nil, errors.New("no bus")
		}
		b := buses[0]
		buses = buses[1:]
		b.story, b.signals = s, make(chan bool)
		s.tell("connect")
		return b, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { l.Run(ctx); close(done) }()
	synctest.Wait()
	return s, said, func() { cancel(); <-done }
}

// The lock is held until what has to be done is done, and no longer; after a
// cancelled shutdown it is taken again.
func TestShutdown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBus{limit: 5 * time.Second}
		s, _, stop := rig(t, time.Second, b)
		s.want(t, "connect", "lock")
		for range 2 {
			b.signals <- true
			s.want(t, "begin")
			time.Sleep(time.Second)
			s.want(t, "done", "release")
			b.signals <- true // said twice
			s.want(t)
			b.signals <- false
			s.want(t, "cancel", "lock")
		}
		b.signals <- false
		s.want(t, "release", "lock")
		stop()
		s.want(t, "release", "close")
	})
}

// What takes too long is cut short before logind's patience ends.
func TestTime(t *testing.T) {
	t.Parallel()
	for limit, want := range map[time.Duration]time.Duration{0: 4500 * time.Millisecond, time.Second: 900 * time.Millisecond, 2 * time.Minute: 108 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			b := &fakeBus{limit: limit}
			s, _, stop := rig(t, time.Hour, b)
			s.want(t, "connect", "lock")
			b.signals <- true
			began := time.Now()
			time.Sleep(want - time.Millisecond)
			s.want(t, "begin")
			time.Sleep(time.Millisecond)
			s.want(t, "over", "release")
			if took := time.Since(began); took != want {
				t.Errorf("%v of %v", took, limit)
			}
			stop()
		})
	}
}

// Being told to end is part of a shutdown, and does not cut it short.
func TestToldToEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBus{limit: 5 * time.Second}
		s, _, stop := rig(t, 2*time.Second, b)
		b.signals <- true
		synctest.Wait()
		go stop()
		time.Sleep(3 * time.Second)
		s.want(t, "connect", "lock", "begin", "done", "release", "close")
	})
}

// A process that starts while the machine goes down does what it can at once.
func TestStartedInAShutdown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBus{limit: 5 * time.Second, preparing: true, refuse: true}
		s, said, stop := rig(t, 0, b)
		s.want(t, "connect", "begin", "done")
		b.signals <- false
		s.want(t, "cancel")
		stop()
		if !strings.Contains(said.String(), "no delay lock") {
			t.Error(said)
		}
	})
}

// A bus that is restarted is connected again; a shutdown that it was told of is
// not begun twice.
func TestBusRestarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first, second := &fakeBus{limit: time.Second}, &fakeBus{limit: time.Second, preparing: true}
		s, _, stop := rig(t, 0, first, nil, second)
		first.signals <- true
		s.want(t, "connect", "lock", "begin", "done", "release")
		close(first.signals)
		s.want(t, "close")
		time.Sleep(retryLost + retryDeaf)
		s.want(t, "connect", "lock", "release")
		second.signals <- false
		s.want(t, "cancel", "lock")
		stop()
	})
}

// A machine without the bus says so once.
func TestNoBus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, said, stop := rig(t, 0)
		time.Sleep(time.Hour)
		s.want(t)
		stop()
		if n := strings.Count(said.String(), "\n"); n != 1 || !strings.Contains(said.String(), "surprise") {
			t.Errorf("said %d times: %s", n, said)
		}
	})
}
