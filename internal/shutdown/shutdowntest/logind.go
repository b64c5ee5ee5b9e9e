// Package shutdowntest is a logind of which nothing is there but what tells of
// shutdowns: the two properties, the signal, and delay locks that are real file
// descriptors, on a real bus. It shuts nothing down.
package shutdowntest

import (
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	name    = "org.freedesktop.login1"
	path    = dbus.ObjectPath("/org/freedesktop/login1")
	manager = "org.freedesktop.login1.Manager"
)

// Logind is served on a connection by Serve.
type Logind struct {
	// Locks delivers each lock that is taken.
	Locks chan Lock

	conn      *dbus.Conn
	delay     time.Duration
	preparing atomic.Bool
}

// Lock is one delay lock.
type Lock struct {
	What, Who, Why, Mode string
	Released             <-chan struct{} // closed when it is
}

// Serve owns logind's name on the bus. Locks delay for at most delay.
func Serve(conn *dbus.Conn, delay time.Duration) (*Logind, error) {
	l := &Logind{Locks: make(chan Lock, 16), conn: conn, delay: delay}
	if err := conn.Export(calls{l}, path, manager); err != nil {
		return nil, err
	}
	if err := conn.Export(properties{l}, path, "org.freedesktop.DBus.Properties"); err != nil {
		return nil, err
	}
	_, err := conn.RequestName(name, 0)
	return l, err
}

// Prepare says that a shutdown begins, or that it is cancelled.
func (l *Logind) Prepare(going bool) error {
	l.preparing.Store(going)
	return l.conn.Emit(path, manager+".PrepareForShutdown", going)
}

// calls and properties have the methods that the bus sees.
type calls struct{ l *Logind }

// ownCopy is how long this process keeps its copy of a descriptor that it sends.
const ownCopy = 300 * time.Millisecond

// Inhibit is org.freedesktop.login1.Manager.Inhibit.
func (c calls) Inhibit(what, who, why, mode string) (dbus.UnixFD, *dbus.Error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	fd := dbus.UnixFD(w.Fd())
	time.AfterFunc(ownCopy, func() { _ = w.Close() })
	released := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, r)
		_ = r.Close()
		close(released)
	}()
	c.l.Locks <- Lock{what, who, why, mode, released}
	return fd, nil
}

type properties struct{ l *Logind }

// Get is org.freedesktop.DBus.Properties.Get.
func (p properties) Get(_, name string) (dbus.Variant, *dbus.Error) {
	switch name {
	case "InhibitDelayMaxUSec":
		return dbus.MakeVariant(uint64(p.l.delay / time.Microsecond)), nil
	case "PreparingForShutdown":
		return dbus.MakeVariant(p.l.preparing.Load()), nil
	default:
		return dbus.Variant{}, dbus.MakeFailedError(os.ErrNotExist)
	}
}
