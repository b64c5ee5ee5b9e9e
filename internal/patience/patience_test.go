package patience_test

import (
	"cmp"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/internal/patience"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// parameter is the kernel's.
type parameter struct {
	mu     sync.Mutex
	now    time.Duration
	writes int
	err    error
}

func (p *parameter) AdminTimeout() (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now, p.err
}

func (p *parameter) SetAdminTimeout(d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = d
	p.writes++
	return p.err
}

type rig struct {
	*testing.T
	*parameter
	dir  string
	said *strings.Builder
}

func newRig(t *testing.T, now time.Duration) rig {
	return rig{t, &parameter{now: now}, filepath.Join(t.TempDir(), "patience"), &strings.Builder{}}
}

// start is a new process.
func (r rig) start() *patience.Limit {
	r.Helper()
	l, err := patience.New(r.parameter, patience.Default, r.dir, slog.New(slog.NewTextHandler(r.said, nil)))
	if err != nil {
		r.Fatal(err)
	}
	return l
}

func (r rig) want(d time.Duration) {
	r.Helper()
	if now, _ := r.AdminTimeout(); now != d {
		r.Errorf("the kernel waits for %v, want %v", now, d)
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute)
	l := r.start()
	r.want(time.Minute)
	a, b := l.Hold(), l.Hold()
	r.want(patience.Default)
	a()
	a() // counts once
	r.want(patience.Default)
	b()
	r.want(time.Minute)
	if r.writes != 2 {
		t.Errorf("written %d times", r.writes)
	}
	l.Hold()
	r.want(patience.Default)
}

// What a killed process has left short is put back by the next, or by the one
// after that.
func TestKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, 90*time.Second)
	r.start().Hold()
	r.want(patience.Default)
	next := r.start()
	r.want(90 * time.Second)
	next.Hold()
	third := r.start()
	r.want(90 * time.Second)
	third.Hold()()
	r.want(90 * time.Second)
}

// What somebody else sets is his.
func TestOthers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ before, during, after time.Duration }{
		"as short already":   {before: patience.Default, after: patience.Default},
		"shorter already":    {before: 2 * time.Second, after: 2 * time.Second},
		"set meanwhile":      {before: time.Minute, during: 20 * time.Second, after: 20 * time.Second},
		"set to less":        {before: time.Minute, during: time.Second, after: time.Second},
		"longer than usual":  {before: time.Hour, after: time.Hour},
		"changed since once": {before: 2 * time.Minute, after: 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, c.before)
			l := r.start()
			release := l.Hold()
			if c.during != 0 {
				_ = r.SetAdminTimeout(c.during)
			}
			release()
			r.want(c.after)
			_ = r.SetAdminTimeout(45 * time.Second)
			r.start().Hold()
			r.want(patience.Default)
			r.start()
			r.want(45 * time.Second)
		})
	}
}

// A machine whose parameter cannot be written is no worse off, and says so once.
func TestRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute)
	l := r.start()
	r.err = errors.New("no")
	for range 3 {
		l.Hold()()
	}
	if n := strings.Count(r.said.String(), "level=WARN"); n != 1 {
		t.Errorf("said %d times:\n%s", n, r.said)
	}
}

// Another time, or none, for the process after one that was killed.
func TestFlagChanged(t *testing.T) {
	t.Parallel()
	for _, short := range []time.Duration{0, 20 * time.Second} {
		r := newRig(t, time.Minute)
		r.start().Hold()
		r.want(patience.Default)
		l, err := patience.New(r.parameter, short, r.dir, slog.Default())
		if err != nil {
			t.Fatal(err)
		}
		r.want(time.Minute)
		release := l.Hold()
		r.want(cmp.Or(short, time.Minute))
		release()
		r.want(time.Minute)
	}
}

func TestBadTime(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{-time.Second, 999 * time.Millisecond, 1500 * time.Millisecond} {
		_, err := patience.New(&parameter{}, d, t.TempDir(), slog.Default())
		if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "admin-timeout") {
			t.Errorf("%v: %v", d, err)
		}
	}
}

func TestTogether(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute)
	l := r.start()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { l.Hold()() })
	}
	all.Wait()
	r.want(time.Minute)
}
