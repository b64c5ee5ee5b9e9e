package shutdown

import (
	"context"
	"io"
	"log/slog"
	"time"
)

// Handler is what a shutdown means.
type Handler interface {
	// Begin has until ctx ends: then the machine goes on with its shutdown.
	Begin(ctx context.Context)
	// Cancel is for a shutdown that does not take place after all.
	Cancel()
}

// Options are what a Listener is made of.
type Options struct {
	Socket  string // path of the system bus's socket
	Handler Handler
	Log     *slog.Logger
}

// bus is what is needed of logind.
type bus interface {
	// Delay takes a lock that is released by closing it.
	Delay(ctx context.Context) (io.Closer, error)
	MaxDelay(ctx context.Context) (time.Duration, error)
	// Preparing says whether a shutdown is under way already.
	Preparing(ctx context.Context) (bool, error)
	// Signals delivers true when a shutdown begins and false when it is cancelled;
	// it is closed when the connection is lost.
	Signals() <-chan bool
	Close() error
}

// Listener waits for shutdowns. Make it with New.
type Listener struct {
	Options
	connect func(ctx context.Context, socket string) (bus, error)
	going   bool // Begin was called, and not Cancel
	deaf    bool // and it was said
}

// New returns a listener that has not connected yet.
func New(o Options) *Listener { return &Listener{Options: o, connect: connectLogind} }

const (
	callTime  = 5 * time.Second
	retryDeaf = 30 * time.Second // the bus is not there
	retryLost = time.Second      // it was there: it is being restarted
	// usualDelay is logind's default for InhibitDelayMaxSec.
	usualDelay = 5 * time.Second
)

// Run listens until ctx ends, and connects again whenever the bus is lost.
func (l *Listener) Run(ctx context.Context) {
	for ctx.Err() == nil {
		pause := retryLost
		b, err := l.connect(ctx, l.Socket)
		if err == nil {
			l.deaf = false
			l.listen(ctx, b)
			err = b.Close()
		} else {
			pause = retryDeaf
			l.say(err)
		}
		if err != nil {
			l.Log.Debug("no connection to logind", "socket", l.Socket, "err", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (l *Listener) say(err error) {
	if !l.deaf {
		l.Log.Warn("a shutdown of this node will come as a surprise: unmounts of volumes that are unreachable then may hold it up", "socket", l.Socket, "err", err)
	}
	l.deaf = true
}

// listen serves one connection.
func (l *Listener) listen(ctx context.Context, b bus) {
	lock, limit := l.hold(ctx, b)
	defer func() { lock() }()
	if on, err := l.preparing(ctx, b); err == nil && on {
		l.begin(ctx, limit)
		lock()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case going, ok := <-b.Signals():
			switch {
			case !ok:
				return
			case going:
				l.begin(ctx, limit)
				lock()
			default:
				l.cancel()
				lock()
				lock, limit = l.hold(ctx, b)
			}
		}
	}
}

// hold takes a delay lock, and tells how long it delays. Without one a shutdown is
// still heard of, and has no time.
func (l *Listener) hold(ctx context.Context, b bus) (release func(), limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	limit, err := b.MaxDelay(ctx)
	if err != nil || limit <= 0 {
		limit = usualDelay
	}
	lock, err := b.Delay(ctx)
	if err != nil {
		l.Log.Warn("logind gives no delay lock: a shutdown does not wait for volumes to be synced", "err", err)
		return func() {}, limit
	}
	l.Log.Debug("a shutdown waits for volumes to be synced", "limit", limit)
	return func() {
		if err := lock.Close(); err == nil {
			l.Log.Debug("a shutdown does not wait any more")
		}
	}, limit
}

func (*Listener) preparing(ctx context.Context, b bus) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return b.Preparing(ctx)
}

// begin leaves a tenth of the time to the release. That this process is told to
// end meanwhile is part of the shutdown.
func (l *Listener) begin(ctx context.Context, limit time.Duration) {
	if l.going {
		return
	}
	l.going = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit-limit/10)
	defer cancel()
	l.Handler.Begin(ctx)
}

func (l *Listener) cancel() {
	if l.going {
		l.Handler.Cancel()
	}
	l.going = false
}
