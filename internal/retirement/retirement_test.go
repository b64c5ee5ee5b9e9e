package retirement_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/internal/retirement"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

var declared = time.Date(2026, 11, 28, 12, 0, 0, 123456789, time.UTC)

// machine is a storage host behind a network: err is what its client returns.
type machine struct {
	retirement.Backend
	err    error
	there  bool // it answers simple questions
	calls  []string
	retire []time.Time
}

func (m *machine) called(what string) error { m.calls = append(m.calls, what); return m.err }

func (m *machine) Info(context.Context) (volume.HostInfo, error) {
	err := m.called("info")
	if m.there {
		err = nil
	}
	return volume.HostInfo{Version: "x", Pools: []volume.Pool{{Name: "fast"}}}, err
}
func (m *machine) Create(context.Context, volume.CreateRequest) (volume.Volume, error) {
	return volume.Volume{}, m.called("create")
}
func (m *machine) FindByName(context.Context, string) (volume.Volume, error) {
	return volume.Volume{}, m.called("find")
}
func (m *machine) Publish(context.Context, volume.PublishRequest) (volume.Publication, error) {
	return volume.Publication{}, m.called("publish")
}
func (m *machine) Unpublish(context.Context, uuid.UUID, string) error { return m.called("unpublish") }
func (m *machine) Delete(context.Context, uuid.UUID) error            { return m.called("delete") }
func (m *machine) List(context.Context, uuid.UUID, int) ([]volume.Volume, error) {
	return nil, m.called("list")
}
func (m *machine) Publications(context.Context) ([]volume.Publication, error) {
	return nil, m.called("publications")
}
func (m *machine) Retire(_ context.Context, at time.Time) error {
	m.retire = append(m.retire, at)
	return m.err
}
func (m *machine) Admit(context.Context, time.Time) error { return m.err }

// What clients make of a silent machine, and of one that says that it cannot now.
var (
	silence  = rpcerr.FromStatus(status.Error(codes.Unavailable, "connection error: i/o timeout"))
	late     = rpcerr.FromStatus(status.Error(codes.DeadlineExceeded, "context deadline exceeded"))
	unnamed  = rpcerr.FromStatus(rpcerr.ToStatus(errors.New("disk full")))
	answered = rpcerr.FromStatus(rpcerr.ToStatus(volume.ErrUnavailable))
	fencing  = rpcerr.FromStatus(rpcerr.ToStatus(volume.ErrPending))
)

func TestHost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		gone     bool
		err      error // of the machine
		there    bool
		call     string
		want     error
		notAsked bool
	}{
		"in service, silent: unpublish": {err: silence, call: "unpublish", want: volume.ErrUnavailable},
		"in service, silent: delete":    {err: silence, call: "delete", want: volume.ErrUnavailable},
		"in service: create":            {call: "create"},
		"in service: publish":           {call: "publish"},
		"in service: info":              {call: "info"},
		"in service: find":              {err: volume.ErrNotFound, call: "find", want: volume.ErrNotFound},
		"in service, silent: list":      {err: silence, call: "list", want: volume.ErrUnavailable},
		"gone: unpublish":               {gone: true, err: silence, call: "unpublish"},
		"gone, late: unpublish":         {gone: true, err: late, call: "unpublish"},
		"gone: delete":                  {gone: true, err: silence, call: "delete"},
		// It is there: what it says counts.
		"back: unpublish":                {gone: true, call: "unpublish"},
		"back: not found":                {gone: true, err: volume.ErrNotFound, call: "delete", want: volume.ErrNotFound},
		"back, a pool is away: delete":   {gone: true, err: answered, call: "delete", want: volume.ErrUnavailable},
		"back, a fence waits: unpublish": {gone: true, err: fencing, call: "unpublish", want: volume.ErrPending},
		"gone: create":                   {gone: true, err: silence, call: "create", want: volume.ErrPrecondition, notAsked: true},
		"gone: publish":                  {gone: true, err: silence, call: "publish", want: volume.ErrPrecondition, notAsked: true},
		"gone: find":                     {gone: true, err: silence, call: "find", want: volume.ErrNotFound},
		"back: find":                     {gone: true, call: "find"},
		"back, broken: find":             {gone: true, err: answered, call: "find", want: volume.ErrUnavailable},
		"back, a fence takes long":       {gone: true, err: late, there: true, call: "unpublish", want: volume.ErrPending},
		"back, full: delete":             {gone: true, err: unnamed, call: "delete", want: volume.ErrUnavailable},
		"gone: info":                     {gone: true, err: silence, call: "info", notAsked: true},
		"gone: list":                     {gone: true, err: silence, call: "list", notAsked: true},
		"gone: publications":             {gone: true, err: silence, call: "publications", notAsked: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &machine{err: c.err, there: c.there}
			h := retirement.Wrap("box1", m, func() (time.Time, bool) { return declared, c.gone })
			err := call(t.Context(), h, c.call)
			if (c.want == nil) != (err == nil) || !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if errors.Is(c.want, volume.ErrPrecondition) && !strings.Contains(err.Error(), "holdfast admit box1") {
				t.Errorf("%v does not say what to do", err)
			}
			if asked := len(m.calls) > 0; asked == c.notAsked {
				t.Errorf("asked: %v", m.calls)
			}
		})
	}
}

func call(ctx context.Context, h retirement.Host, what string) (err error) {
	switch what {
	case "unpublish":
		return h.Unpublish(ctx, uuid.New(), "n")
	case "delete":
		return h.Delete(ctx, uuid.New())
	case "create":
		_, err = h.Create(ctx, volume.CreateRequest{})
	case "publish":
		_, err = h.Publish(ctx, volume.PublishRequest{})
	case "find":
		_, err = h.FindByName(ctx, "x")
	case "info":
		var info volume.HostInfo
		if info, err = h.Info(ctx); err == nil && (len(info.Pools) == 0) == info.Retired.IsZero() {
			return fmt.Errorf("it says %+v", info)
		}
	case "list":
		_, err = h.List(ctx, uuid.Nil, 0)
	case "publications":
		_, err = h.Publications(ctx)
	}
	return err
}

// Whoever has no time left has learned nothing.
func TestCallersTime(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h := retirement.Wrap("box1", &machine{err: late}, func() (time.Time, bool) { return declared, true })
	if err := h.Unpublish(ctx, uuid.New(), "n"); !errors.Is(err, volume.ErrPending) {
		t.Errorf("got %v", err)
	}
}

func TestKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var mu sync.Mutex
		texts, readErr := map[string]string{"box2": retirement.Format(declared), "box3": "yes"}, error(nil)
		box1, box2 := &machine{}, &machine{err: silence}
		k := retirement.New(retirement.Options{
			Hosts: map[string]volume.Retiree{"box1": box1, "box2": box2},
			Read: func(context.Context) (map[string]string, error) {
				mu.Lock()
				defer mu.Unlock()
				return texts, readErr
			},
			Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		says := func(text string, times int) {
			t.Helper()
			if n := strings.Count(log.String(), text); n != times {
				t.Errorf("said %q %d times, want %d:\n%s", text, n, times, log.String())
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		k.Refresh(ctx)
		if at, gone := k.Declared("box2"); !gone || !at.Equal(declared) {
			t.Errorf("box2: %v %v", at, gone)
		}
		go k.Run(ctx)
		pass := func(change func()) {
			mu.Lock()
			change()
			mu.Unlock()
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		pass(func() {})
		says("host=box2", 1)
		says(`box3: value \"yes\"`, 1)
		pass(func() { readErr, box2.err = errors.New("the API server is away"), nil })
		says("what was known holds", 1)
		says("answers: it exports nothing", 1)
		if len(box1.retire) > 0 || !box2.retire[0].Equal(declared) {
			t.Errorf("told %v and %v", box1.retire, box2.retire)
		}
		pass(func() { box2.err = rpcerr.FromStatus(status.Error(codes.Unimplemented, "an older build")) })
		says("AND DOES NOT TAKE THE WORD", 1)
		pass(func() { texts, readErr = map[string]string{"box2.admitted": retirement.Format(declared)}, nil })
		told := len(box2.retire)
		pass(func() {})
		if _, gone := k.Declared("box2"); gone || len(box2.retire) != told {
			t.Errorf("still gone after it was admitted: %v", gone)
		}
		cancel()
		synctest.Wait()
	})
}

func TestParse(t *testing.T) {
	t.Parallel()
	if at, err := retirement.Parse("box1", retirement.Format(declared)); err != nil || !at.Equal(declared) {
		t.Errorf("got %v, %v", at, err)
	}
	for _, bad := range []string{"", "true", "2026-11-28", "0001-01-01T00:00:00Z", "1764331200"} {
		if _, err := retirement.Parse("box1", bad); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "box1") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
