//go:build kernel

package gate_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/gate"
)

// ownNetwork moves the test to a network namespace of its own, with lo up. The
// thread is never handed back, so it ends with the test's goroutine.
func ownNetwork(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace: %v", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		t.Fatal(err)
	}
}

// serve echoes on a socket made in the test's namespace.
func serve(t *testing.T, addr string) (net.Listener, uint16) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("listen on %s: %v", addr, err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 1)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, err := c.Write(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l, uint16(l.Addr().(*net.TCPAddr).Port)
}

// dial does not use net.Dialer's parallel attempts: those run on other threads.
func dial(t *testing.T, l net.Listener, timeout time.Duration) (net.Conn, error) {
	t.Helper()
	c, err := net.DialTimeout("tcp", l.Addr().String(), timeout)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func echo(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	buf := []byte{'x'}
	if _, err := c.Write(buf); err != nil {
		t.Fatalf("write: %v", err)
	}
	if _, err := c.Read(buf); err != nil {
		t.Fatalf("read: %v", err)
	}
}

func timedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestKernelGate(t *testing.T) {
	ownNetwork(t)
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, port := serve(t, addr)
		other, _ := serve(t, addr)
		old, err := dial(t, l, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		echo(t, old)
		g, err := gate.New()
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Close(port); err != nil {
			t.Fatal(err)
		}
		if _, err := dial(t, l, 500*time.Millisecond); !timedOut(err) {
			t.Fatalf("%s: dial of a closed port: %v", addr, err)
		}
		echo(t, old)
		if _, err := dial(t, other, time.Second); err != nil {
			t.Fatalf("another port: %v", err)
		}
		if err := g.Open(port); err != nil {
			t.Fatal(err)
		}
		c, err := dial(t, l, time.Second)
		if err != nil {
			t.Fatalf("%s: dial after open: %v", addr, err)
		}
		echo(t, c)
		echo(t, old)
	}
}

// A dial that is waiting when the gate opens succeeds by retransmission.
func TestKernelWaitingDial(t *testing.T) {
	ownNetwork(t)
	l, port := serve(t, "127.0.0.1:0")
	g, err := gate.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(port); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ns)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread is in another namespace
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			opened <- err
			return
		}
		time.Sleep(300 * time.Millisecond)
		opened <- g.Open(port)
	}()
	c, err := dial(t, l, 5*time.Second)
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	echo(t, c)
}

func TestKernelIdempotent(t *testing.T) {
	ownNetwork(t)
	g, err := gate.New()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if g, err = gate.New(); err != nil {
			t.Fatal(err)
		}
		if err := g.Close(4420, 4421); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Open(4421, 9999); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, g, 4420)
	if out := nft(t, "list", "table", "inet", "holdfast"); strings.Count(out, "drop") != 1 {
		t.Errorf("not exactly one rule:\n%s", out)
	}
	nft(t, "flush", "chain", "inet", "holdfast", "input")
	wantClosed(t, g)
	nft(t, "flush", "ruleset")
	wantClosed(t, g)
	if err := g.Open(4420); err != nil {
		t.Fatalf("open without a table: %v", err)
	}
	if err := g.Close(4422); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, g, 4422)
}

// A rule of another release is replaced, a stranger's is kept behind ours.
func TestKernelReplacesOldRule(t *testing.T) {
	ownNetwork(t)
	g, err := gate.New()
	if err != nil {
		t.Fatal(err)
	}
	nft(t, "flush", "chain", "inet", "holdfast", "input")
	nft(t, "add", "rule", "inet", "holdfast", "input", "tcp", "dport", "1", "accept", "comment", `"mine"`)
	nft(t, "add", "rule", "inet", "holdfast", "input", "tcp", "dport", "@gated", "drop", "comment", `"holdfast gate 0"`)
	if err := g.Close(4420); err != nil {
		t.Fatal(err)
	}
	out := nft(t, "list", "table", "inet", "holdfast")
	if strings.Count(out, "drop") != 1 || strings.Contains(out, "gate 0") ||
		strings.Index(out, "drop") > strings.Index(out, "mine") {
		t.Errorf("table:\n%s", out)
	}
	wantClosed(t, g, 4420)
}

func wantClosed(t *testing.T, g gate.Gate, want ...uint16) {
	t.Helper()
	got, err := g.Closed()
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("closed: %v (%v), want %v", got, err, want)
	}
}

// nft runs in the namespace of the test's thread: the child is forked from it.
func nft(t *testing.T, args ...string) string {
	t.Helper()
	bin, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("needs the nft tool")
	}
	out, err := exec.Command(bin, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return string(out)
}
