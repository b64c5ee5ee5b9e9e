package shutdown

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// login is a logind on a real bus.
type login struct {
	conn  *dbus.Conn
	locks chan *os.File // our end of each lock that is taken
	args  chan []string
	kill  func() // the bus
}

// Inhibit is a method of org.freedesktop.login1.Manager.
func (l *login) Inhibit(what, who, why, mode string) (dbus.UnixFD, *dbus.Error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	l.locks <- r
	l.args <- []string{what, who, why, mode}
	fd := dbus.UnixFD(w.Fd())
	// The descriptor is sent after the return; it must live until then.
	time.AfterFunc(time.Second, func() { _ = w.Close() })
	return fd, nil
}

type properties struct{}

// Get is a method of org.freedesktop.DBus.Properties.
func (properties) Get(_, name string) (dbus.Variant, *dbus.Error) {
	switch name {
	case "InhibitDelayMaxUSec":
		return dbus.MakeVariant(uint64(3_000_000)), nil
	case "PreparingForShutdown":
		return dbus.MakeVariant(false), nil
	default:
		return dbus.Variant{}, dbus.MakeFailedError(os.ErrNotExist)
	}
}

// newBus is a real dbus-daemon with that logind on it.
func newBus(t *testing.T) (socket string, l *login) {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skipf("NOT TESTED against a real bus: %v (try: apt-get install dbus-daemon)", err)
	}
	dir := t.TempDir()
	socket = filepath.Join(dir, "bus")
	conf := filepath.Join(dir, "bus.conf")
	text := fmt.Sprintf(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/></policy></busconfig>`, socket)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), daemon, "--config-file="+conf, "--nofork", "--nopidfile")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	t.Cleanup(kill)
	var conn *dbus.Conn
	eventually(t, "the bus is there", func() bool { conn, err = dbus.Connect("unix:path=" + socket); return err == nil })
	t.Cleanup(func() { _ = conn.Close() })
	l = &login{conn: conn, locks: make(chan *os.File, 9), args: make(chan []string, 9), kill: kill}
	for _, x := range []struct {
		v     any
		iface string
	}{{l, loginManager}, {properties{}, "org.freedesktop.DBus.Properties"}} {
		if err := conn.Export(x.v, loginPath, x.iface); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.RequestName(loginName, 0); err != nil {
		t.Fatal(err)
	}
	return socket, l
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func (l *login) signal(t *testing.T, going bool) {
	t.Helper()
	if err := l.conn.Emit(loginPath, loginManager+"."+prepare, going); err != nil {
		t.Fatal(err)
	}
}

type calls struct{ begin, cancel chan time.Duration }

func (c calls) Begin(ctx context.Context) {
	end, _ := ctx.Deadline()
	c.begin <- time.Until(end)
}

func (c calls) Cancel() { c.cancel <- 0 }

// TestRealBus: over a real bus, the lock is a descriptor that is held until Begin
// is done.
func TestRealBus(t *testing.T) {
	socket, logind := newBus(t)
	c := calls{make(chan time.Duration), make(chan time.Duration)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		New(Options{Socket: socket, Handler: c, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
		close(done)
	}()
	lock := <-logind.locks
	if a := <-logind.args; a[0] != "shutdown" || a[3] != "delay" {
		t.Errorf("lock %q", a)
	}
	time.Sleep(1500 * time.Millisecond) // our own copy is closed by now
	released := make(chan struct{})
	go func() { _, _ = io.ReadAll(lock); close(released) }()
	select {
	case <-released:
		t.Fatal("the lock is not held")
	case <-time.After(100 * time.Millisecond):
	}
	logind.signal(t, true)
	if left := <-c.begin; left > 2700*time.Millisecond || left < 2*time.Second {
		t.Errorf("%v left of 3 s", left)
	}
	<-released
	logind.signal(t, false)
	<-c.cancel
	<-logind.locks
	cancel()
	<-done
}

// TestRealBusDies: that the bus is gone is noticed.
func TestRealBusDies(t *testing.T) {
	socket, logind := newBus(t)
	b, err := connectLogind(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	logind.signal(t, true)
	if going, ok := <-b.Signals(); !going || !ok {
		t.Errorf("going %v, %v", going, ok)
	}
	logind.kill()
	if _, ok := <-b.Signals(); ok {
		t.Error("a signal of nobody")
	}
	_ = b.Close()
}

// TestNotABus: what listens and does not speak is given up.
func TestNotABus(t *testing.T) {
	if _, err := connectLogind(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("connected to nothing")
	}
}
