package shutdown

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/holdfast-csi/holdfast/internal/shutdown/shutdowntest"
)

// login is a logind on a real bus.
type login struct {
	*shutdowntest.Logind
	kill func() // the bus
}

// newBus is a real dbus-daemon with that logind on it.
func newBus(t *testing.T) (socket string, l *login) {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	switch {
	case err == nil:
	case os.Getenv("HOLDFAST_SKIP_BUS") != "":
		t.Skipf("NOT TESTED against a real bus, as HOLDFAST_SKIP_BUS says: %v", err)
	default:
		t.Fatalf("%v (try: apt-get install dbus-daemon; or set HOLDFAST_SKIP_BUS)", err)
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
	served, err := shutdowntest.Serve(conn, 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	l = &login{served, kill}
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
	if err := l.Prepare(going); err != nil {
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
	lock := <-logind.Locks
	if lock.What != "shutdown" || lock.Mode != "delay" {
		t.Errorf("lock %+v", lock)
	}
	select {
	case <-lock.Released:
		t.Fatal("the lock is not held")
	case <-time.After(time.Second):
	}
	logind.signal(t, true)
	if left := <-c.begin; left > 2700*time.Millisecond || left < 2*time.Second {
		t.Errorf("%v left of 3 s", left)
	}
	<-lock.Released
	logind.signal(t, false)
	<-c.cancel
	<-logind.Locks
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
