//go:build kernel

package initiator_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/initiator/initiatortest"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

var record = flag.Bool("record", false, "write what nvme-cli says to standard output (pkg/utils/testdata/README.md)")

// failure is one way for a connect to fail, and what comes of it on Linux 6.1
// and 6.12 (only where they differ, the kernel is named).
type failure struct {
	name      string
	target    nvme.Target
	config    nvme.ConnectionConfig
	want      syscall.Errno
	retryable bool
	timeout   bool
	not       string        // kernel on which it does not fail
	cli       syscall.Errno // what nvme-cli makes of it on both, if that is another
}

func portal(s string) nvme.Target { return targetAt(netip.MustParseAddrPort(s), testNQN) }

func with(t nvme.Target, change func(*nvme.Target)) nvme.Target {
	change(&t)
	return t
}

const deniedNQN = "nqn.2026-11.io.holdfast:test:denied"

func failures() []failure {
	good := portal("127.0.0.1:4421")
	return []failure{
		{name: "port closed", target: portal("127.0.0.1:4423"), want: syscall.ECONNREFUSED, retryable: true},
		{name: "packets dropped", target: portal("127.0.0.1:4424"), want: syscall.ETIMEDOUT, retryable: true, timeout: true},
		{name: "accepts and is silent", target: portal("127.0.0.1:4425"), want: syscall.EAGAIN, retryable: true, timeout: true},
		{name: "accepts and resets", target: portal("127.0.0.1:4426"), want: syscall.ECONNRESET, retryable: true},
		{name: "host unreachable", target: portal("198.51.100.1:4420"), want: syscall.EHOSTUNREACH, retryable: true},
		{name: "no route", target: portal("198.51.100.2:4420"), want: syscall.ENETUNREACH, retryable: true},
		{name: "unknown subsystem", target: targetAt(portalA, otherNQN), want: syscall.EIO, retryable: true},
		{name: "host not allowed", target: targetAt(portalA, deniedNQN), want: syscall.EIO, retryable: true},
		{name: "no such interface", target: with(good, func(t *nvme.Target) { t.HostIface = "nosuch0" }), want: syscall.ENODEV},
		{name: "not our address", target: with(good, func(t *nvme.Target) { t.HostTraddr = "192.0.2.77" }), want: syscall.EADDRNOTAVAIL},
		{name: "queue size refused", target: good, config: nvme.ConnectionConfig{QueueSize: 5}, want: syscall.EINVAL},
		{
			// nvme-cli 2.3 looks in sysfs first, and not at the host NQN.
			name: "host ID of another host NQN", want: syscall.EINVAL, not: "6.1", cli: syscall.EALREADY,
			target: with(targetAt(portalB, testNQN), func(t *nvme.Target) {
				t.HostNQN = "nqn.2014-08.org.nvmexpress:uuid:" + "99999999-43cb-4d28-8b31-6b1f9b1f0a01"
			}),
		},
		{name: "already connected", target: targetAt(portalB, testNQN), want: syscall.EALREADY},
	}
}

// surroundings makes the places that failures lead to. One connection stands,
// at portal B.
func surroundings(t *testing.T) {
	n := initiatortest.NewNvmet(t)
	n.AddSubsystem(testNQN, portalA, portalB)
	n.AddSubsystem(deniedNQN, portalA)
	if err := os.WriteFile("/sys/kernel/config/nvmet/subsystems/"+deniedNQN+"/attr_allow_any_host", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	sh(t, "nft add table inet t && nft 'add chain inet t i { type filter hook input priority 0; }' && nft add rule inet t i tcp dport 4424 drop")
	t.Cleanup(func() { sh(t, "nft delete table inet t") })
	sh(t, "ip route add unreachable 198.51.100.1/32 && ip route add throw 198.51.100.2/32 && ip route del default || true")
	t.Cleanup(func() { sh(t, "ip route del unreachable 198.51.100.1/32; ip route del throw 198.51.100.2/32") })
	listen(t, "127.0.0.1:4425", func(c *net.TCPConn) {
		t.Cleanup(func() { _ = c.Close() })
	})
	listen(t, "127.0.0.1:4426", func(c *net.TCPConn) {
		_ = c.SetLinger(0)
		_ = c.Close()
	})
	h := initiator.New(n.Options())
	t.Cleanup(func() {
		if err := h.Disconnect(context.Background(), testNQN); err != nil {
			t.Error(err)
		}
	})
	s := initiator.Session{NQN: testNQN, HostNQN: hostNQN, HostID: hostID, Portals: []netip.AddrPort{portalB}, Config: nvme.ConnectionConfig{NrIOQueues: 1}}
	if err := h.EnsureSession(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

func sh(t *testing.T, script string) {
	t.Helper()
	if _, err := (command.Exec{}).Run(context.Background(), "sh", "-c", script); err != nil {
		t.Fatal(err)
	}
}

func listen(t *testing.T, at string, serve func(*net.TCPConn)) {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c.(*net.TCPConn))
		}
	}()
}

func TestErrnoOnKernel(t *testing.T) {
	surroundings(t)
	t.Run("fabrics", func(t *testing.T) { tryFailures(t, initiator.NewFabrics(nvmesysfs.Default()), failures()) })
	t.Run("cli", func(t *testing.T) {
		rec := &recorder{}
		fs := failures()
		for i, f := range fs {
			if f.cli != 0 {
				fs[i].want, fs[i].not = f.cli, ""
			}
		}
		tryFailures(t, initiator.NewCLI(rec), fs)
		if *record {
			initiatortest.Emit("nvme-cli-"+os.Getenv("HOLDFAST_KERNEL")+".txt", rec.file(t))
		}
	})
}

func tryFailures(t *testing.T, c initiator.Connector, fs []failure) {
	for _, f := range fs {
		t.Run(f.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			config := f.config
			config.NrIOQueues = 1
			begin := time.Now()
			err := c.Connect(ctx, f.target, config)
			t.Logf("%.1f s: %v", time.Since(begin).Seconds(), err)
			if f.not != "" && f.not == os.Getenv("HOLDFAST_KERNEL") {
				if err != nil {
					t.Errorf("got %v, want none on %s", err, f.not)
				}
				drop(t, f.target)
				return
			}
			checkFailure(t, f, err)
		})
	}
}

func checkFailure(t *testing.T, f failure, err error) {
	t.Helper()
	var e *initiator.ConnectError
	if !errors.As(err, &e) || !errors.Is(err, f.want) {
		t.Fatalf("want errno %d (%v)", f.want, f.want)
	}
	if e.Retryable() != f.retryable || e.Timeout() != f.timeout {
		t.Errorf("retryable %t, timeout %t; want %t, %t", e.Retryable(), e.Timeout(), f.retryable, f.timeout)
	}
	if errors.Is(err, initiator.ErrAlreadyConnected) != (f.want == syscall.EALREADY) {
		t.Errorf("ErrAlreadyConnected: %v", err)
	}
}

// drop deletes the controller that was made by the host of target.
func drop(t *testing.T, target nvme.Target) {
	t.Helper()
	o := initiator.Options{FS: nvmesysfs.Default(), HostNQN: target.HostNQN}
	if err := initiator.New(o).Disconnect(t.Context(), target.NQN); err != nil {
		t.Fatal(err)
	}
}

// recorder runs programs and keeps what they said when they failed.
type recorder struct {
	lines []string
}

func (r *recorder) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	out, err := (command.Exec{}).Run(ctx, name, args...)
	var exit *command.ExitError
	if errors.As(err, &exit) {
		r.lines = append(r.lines, fmt.Sprintf("%d\t%q\t%s", exit.Code, exit.Stderr, strings.Join(args, " ")))
	}
	return out, err
}

func (r *recorder) file(t *testing.T) []byte {
	t.Helper()
	version, err := (command.Exec{}).Run(t.Context(), "sh", "-c", "nvme version | tr '\\n' ' '; uname -rv")
	if err != nil {
		t.Fatal(err)
	}
	return []byte("# " + string(version) + "# exit code, standard error (quoted), arguments of nvme\n" + strings.Join(r.lines, "\n") + "\n")
}
