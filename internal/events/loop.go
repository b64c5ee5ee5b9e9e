package events

import (
	"context"
	"log/slog"
	"time"

	"github.com/holdfast-csi/holdfast/internal/pause"
)

// Options are what a loop needs.
type Options struct {
	// Subjects are all volumes and sessions as they are now.
	Subjects func() []Subject
	// Tell writes an event of the claim of a PersistentVolume, or of the node if the
	// name is empty.
	Tell func(ctx context.Context, persistentVolume string, e Event) error
	Log  *slog.Logger
}

// every is how often is looked for something to tell; gap is between two events, so
// that an outage of many volumes is no flood.
const (
	every = 2 * time.Second
	gap   = 100 * time.Millisecond
)

// Loop tells until its context ends.
type Loop struct {
	Options
	told    map[string]told
	failing bool // the last event could not be written, which is said once
}

// New returns a loop that has told nothing yet.
func New(o Options) *Loop { return &Loop{Options: o, told: map[string]told{}} }

// Run tells until ctx ends.
func (l *Loop) Run(ctx context.Context) {
	for pause.For(ctx, every) {
		l.round(ctx)
	}
}

// round tells what is due, until an event cannot be written: what is known of the
// subjects is old when that took long.
func (l *Loop) round(ctx context.Context) {
	there, ended := map[string]told{}, false
	for _, s := range l.Subjects() {
		before, known := l.told[s.ID]
		if known {
			there[s.ID] = before
		}
		e, due := next(before, s, time.Now())
		if !due || ended || ctx.Err() != nil {
			continue
		}
		if ended = !l.tell(ctx, s, e); ended {
			there[s.ID] = failed(before, time.Now())
			continue
		}
		there[s.ID] = after(before, s, time.Now())
		pause.For(ctx, gap)
	}
	l.told = there // of what is gone nothing is kept
}

// tell says whether the event is out. One that is not is tried again while it is
// still so.
func (l *Loop) tell(ctx context.Context, s Subject, e Event) bool {
	err := l.Tell(ctx, s.PersistentVolume, e)
	if err != nil && !l.failing {
		l.Log.Warn("an event could not be written; it is tried again, and so are others", "of", s.ID, "reason", e.Reason, "err", err)
	}
	l.failing = err != nil
	return err == nil
}
