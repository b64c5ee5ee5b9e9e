package shutdown

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/godbus/dbus/v5"
)

// The interface of logind (org.freedesktop.login1(5)).
const (
	loginName    = "org.freedesktop.login1"
	loginPath    = dbus.ObjectPath("/org/freedesktop/login1")
	loginManager = "org.freedesktop.login1.Manager"
	prepare      = "PrepareForShutdown"
)

type logind struct {
	conn    *dbus.Conn
	signals chan bool
}

// connectLogind connects to the bus, and asks to be told of shutdowns.
func connectLogind(ctx context.Context, socket string) (bus, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	conn, err := greet(ctx, c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("D-Bus at %s: %w", socket, err), c.Close())
	}
	l := &logind{conn: conn, signals: make(chan bool)}
	raw := make(chan *dbus.Signal, 8)
	conn.Signal(raw)
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchObjectPath(loginPath), dbus.WithMatchInterface(loginManager), dbus.WithMatchMember(prepare))
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go l.translate(raw)
	return l, nil
}

// greet says hello, which waits for the other side and knows no context.
func greet(ctx context.Context, c net.Conn) (*dbus.Conn, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, net.UnknownNetworkError(c.LocalAddr().Network())
	}
	if end, ok := ctx.Deadline(); ok {
		if err := u.SetDeadline(end); err != nil {
			return nil, err
		}
	}
	// In order: a shutdown that is cancelled at once must not begin after it.
	conn, err := dbus.ConnectUnix(u, dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return nil, err
	}
	return conn, u.SetDeadline(time.Time{})
}

// translate ends with the connection. Signals that are no such signal are skipped:
// the bus sends some of its own.
func (l *logind) translate(raw <-chan *dbus.Signal) {
	defer close(l.signals)
	for s := range raw {
		if s.Name != loginManager+"."+prepare || s.Path != loginPath || len(s.Body) != 1 {
			continue
		}
		going, ok := s.Body[0].(bool)
		if !ok {
			continue
		}
		select {
		case l.signals <- going:
		case <-l.conn.Context().Done():
			return
		}
	}
}

func (l *logind) manager() dbus.BusObject { return l.conn.Object(loginName, loginPath) }

// Delay implements bus. The lock is a file descriptor.
func (l *logind) Delay(ctx context.Context) (io.Closer, error) {
	var fd dbus.UnixFD
	err := l.manager().CallWithContext(ctx, loginManager+".Inhibit", 0, "shutdown", "Holdfast", "bring written data to the storage hosts", "delay").Store(&fd)
	if err != nil {
		return nil, fmt.Errorf("take a delay lock: %w", err)
	}
	return os.NewFile(uintptr(fd), "shutdown delay lock"), nil
}

// MaxDelay implements bus.
func (l *logind) MaxDelay(ctx context.Context) (time.Duration, error) {
	var usec uint64
	err := l.property(ctx, "InhibitDelayMaxUSec", &usec)
	return time.Duration(min(usec, uint64(maxDelay/time.Microsecond))) * time.Microsecond, err
}

// maxDelay keeps a nonsensical setting from overflowing.
const maxDelay = 24 * time.Hour

// Preparing implements bus.
func (l *logind) Preparing(ctx context.Context) (on bool, err error) {
	err = l.property(ctx, "PreparingForShutdown", &on)
	return on, err
}

func (l *logind) property(ctx context.Context, name string, to any) error {
	var v dbus.Variant
	err := l.manager().CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, loginManager, name).Store(&v)
	if err == nil {
		err = v.Store(to)
	}
	if err != nil {
		return fmt.Errorf("property %s of logind: %w", name, err)
	}
	return nil
}

// Signals implements bus.
func (l *logind) Signals() <-chan bool { return l.signals }

// Close implements bus.
func (l *logind) Close() error { return l.conn.Close() }
