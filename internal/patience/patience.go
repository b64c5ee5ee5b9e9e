package patience

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/statefile"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Default is the short time: what a volume's keep-alive allows by default. A
// storage host that is silent for so long is away.
const Default = 5 * time.Second

// Parameter is the kernel's time; nvmesysfs.FS is the real one.
type Parameter interface {
	// AdminTimeout is in whole seconds.
	AdminTimeout() (time.Duration, error)
	SetAdminTimeout(d time.Duration) error
}

// Limit is the time of this machine.
type Limit struct {
	kernel  Parameter
	short   time.Duration
	records statefile.Dir[change]
	log     *slog.Logger

	mu     sync.Mutex
	held   int    // guarded by mu
	last   change // guarded by mu
	failed bool   // the last change did, and it was said; guarded by mu
}

// change is the last that was made of this boot: what was there, and what is to be
// there meanwhile; zero if there was none.
type change struct {
	From time.Duration `json:"from"`
	To   time.Duration `json:"to"`
}

const changeKey = "admin_timeout"

// New returns a limit that nobody holds: a time that an earlier process has left
// short is put back. The directory remembers across a process that is killed what
// to put back; it must be of this boot, as the parameter is. The time is whole
// seconds (volume.ErrInvalid); 0 leaves the kernel's as it is from now on.
func New(kernel Parameter, short time.Duration, dir string, log *slog.Logger) (*Limit, error) {
	if short < 0 || short%time.Second != 0 {
		return nil, fmt.Errorf("admin-timeout: value %s: want whole seconds, or 0 to leave the kernel's: %w", short, volume.ErrInvalid)
	}
	records, err := statefile.OpenVolatile[change](dir)
	if err != nil {
		return nil, err
	}
	last, err := records.Get(changeKey)
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		return nil, err
	}
	l := &Limit{kernel: kernel, short: short, records: records, last: last, log: log}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.say(l.lengthen())
	return l, nil
}

// Hold keeps the time short until release is called, which may be called more
// than once. What fails is logged: nothing depends on it but how long it takes.
func (l *Limit) Hold() (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held++; l.held == 1 {
		l.say(l.shorten())
	}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.held--; l.held == 0 {
			l.say(l.lengthen())
		}
	})
}

// shorten leaves a time alone that is not longer: whoever set it wanted it. What
// is to be put back is on record before it goes.
func (l *Limit) shorten() error {
	now, err := l.kernel.AdminTimeout()
	if err != nil || now <= l.short || l.short == 0 {
		return err
	}
	if next := (change{From: now, To: l.short}); next != l.last {
		l.last = next
		if err := l.records.Put(changeKey, next); err != nil {
			l.log.Warn("should this process be killed, the kernel's admin time-out may stay short", "err", err)
		}
	}
	return l.kernel.SetAdminTimeout(l.short)
}

// lengthen puts the time back, unless somebody has set another one meanwhile.
func (l *Limit) lengthen() error {
	now, err := l.kernel.AdminTimeout()
	if err != nil || l.last == (change{}) || now != l.last.To {
		return err
	}
	return l.kernel.SetAdminTimeout(l.last.From)
}

// say logs the first failure of a row.
func (l *Limit) say(err error) {
	if errors.Is(err, unix.EROFS) {
		err = fmt.Errorf("%w (the node's container needs /sys writable)", err)
	}
	if err != nil && !l.failed {
		l.log.Warn("the kernel's admin time-out cannot be shortened: a storage host that vanishes in the middle of a connect may hold all connects up for a minute", "err", err)
	}
	l.failed = err != nil
}
