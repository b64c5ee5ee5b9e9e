//go:build linux && vm

package vm_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/vm"
)

// echoEnv names the unix socket on which this program serves an echo instead of running tests.
const echoEnv = "VM_TEST_ECHO"

func TestMain(m *testing.M) {
	socket := os.Getenv(echoEnv)
	if socket == "" {
		os.Exit(m.Run())
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			_, _ = io.Copy(conn, conn) // the other side sees errors
			_ = conn.Close()
		}()
	}
}

// bench is two machines on one kernel, shared by the tests below; each test leaves it as it found it.
type bench struct {
	lab           *vm.Lab
	storage, node *vm.Machine
}

func newBench(t *testing.T, kernel string) *bench {
	t.Helper()
	start := time.Now()
	lab, err := vm.NewLab(t.Context(), vm.LabConfig{Name: "self", Kernel: kernel, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(lab.Dir()); !errors.Is(err, os.ErrNotExist) && os.Getenv("HOLDFAST_VM_KEEP") == "" {
			t.Errorf("%s is still there: %v", lab.Dir(), err)
		}
	})
	b := &bench{lab: lab}
	b.storage = add(t, lab, vm.MachineConfig{Name: "storage", DiskGiB: 2, VolatileDisk: true, Forward: []int{8080}})
	b.node = add(t, lab, vm.MachineConfig{Name: "node"})
	if err := lab.Boot(t.Context(), b.storage, b.node); err != nil {
		t.Fatal(err)
	}
	t.Logf("two machines on %s (%s) after %.1f s", lab.KernelVersion(), lab.Accel(), time.Since(start).Seconds())
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(b.storage.Console())
			t.Log(b.node.Console())
		}
	})
	return b
}

func add(t *testing.T, lab *vm.Lab, cfg vm.MachineConfig) *vm.Machine {
	t.Helper()
	m, err := lab.Add(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (b *bench) shell(t *testing.T, m *vm.Machine, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := m.Shell(ctx, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// pings tells whether one of a few pings from node to storage is answered, and how long the quickest took.
func (b *bench) pings(t *testing.T) (time.Duration, bool) {
	t.Helper()
	// -W: after its last packet busybox would wait ten seconds.
	out, err := b.node.Shell(t.Context(), `for i in 1 2 3; do busybox ping -c 1 -W 1 storage; done |
		sed -n 's/.*time=\([0-9.]*\) ms/\1ms/p' | sort -n | head -n 1`)
	if err != nil {
		t.Fatal(err)
	}
	if out == "" {
		return 0, false
	}
	d, err := time.ParseDuration(out)
	if err != nil {
		t.Fatal(err)
	}
	return d, true
}

func TestMachines(t *testing.T) {
	for _, kernel := range []string{"6.12", "6.1"} {
		t.Run(kernel, func(t *testing.T) {
			b := newBench(t, kernel)
			if !strings.HasPrefix(b.lab.KernelVersion(), kernel+".") {
				t.Errorf("kernel %s for series %s", b.lab.KernelVersion(), kernel)
			}
			for _, test := range []struct {
				name string
				run  func(*bench, *testing.T)
			}{
				{"Programs", (*bench).programs},
				{"Background", (*bench).background},
				{"Files", (*bench).files},
				{"Dial", (*bench).dial},
				{"Modules", (*bench).modules},
				{"Faults", (*bench).faults},
				{"Refuse", (*bench).refuse},
				{"NVMe", (*bench).nvme},
				{"PowerCut", (*bench).powerCut},
				{"Shutdown", (*bench).shutdown},
			} {
				if !t.Run(test.name, func(t *testing.T) { test.run(b, t) }) && !(b.storage.Running() && b.node.Running()) {
					t.Fatal("a machine is down")
				}
			}
		})
	}
}

func (b *bench) programs(t *testing.T) {
	res, err := b.node.Run(t.Context(), "sh", "-c", "echo out; echo err >&2; exit 3")
	exit, ok := errors.AsType[*vm.ExitError](err)
	if !ok || exit.Exit != 3 || res.Stdout != "out\n" || res.Stderr != "err\n" {
		t.Errorf("got %+v, %v", res, err)
	}
	if _, err := b.node.Run(t.Context(), "no-such-program"); err == nil || errors.As(err, &exit) && exit == nil {
		t.Errorf("a program that does not exist: %v", err)
	}
	cmd := b.node.Command(t.Context(), "sh", "-c", "cat; pwd; echo $X")
	var out strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Dir, cmd.Env = strings.NewReader("in\n"), &out, "/usr", []string{"X=y"}
	if err := cmd.Run(); err != nil || out.String() != "in\n/usr\ny\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	// A program whose context ends is killed with its children.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := b.node.Shell(ctx, "sleep 4321 & wait"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after its deadline: %v", err)
	}
	b.shell(t, b.node, "for i in $(seq 50); do pgrep -f 'sleep 432[1]' >/dev/null || exit 0; sleep 0.1; done; exit 1")
}

func (b *bench) background(t *testing.T) {
	p, err := b.node.Start(t.Context(), "ticker", "sh", "-c", "trap 'echo bye; exit 7' TERM; echo hello; while :; do sleep 0.1; done")
	if err != nil {
		t.Fatal(err)
	}
	b.shell(t, b.node, "until grep -q hello /var/log/ticker.log; do sleep 0.1; done")
	if running, err := p.Running(t.Context()); err != nil || !running {
		t.Errorf("running: %v, %v", running, err)
	}
	if err := p.Signal(t.Context(), syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if exit, err := p.Wait(t.Context()); err != nil || exit != 7 {
		t.Errorf("exit %d, %v", exit, err)
	}
	if log, err := p.Log(t.Context()); err != nil || !strings.HasSuffix(log, "bye\n") {
		t.Errorf("log %q, %v", log, err)
	}
	if err := p.Signal(t.Context(), syscall.SIGTERM); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("signal after the end: %v", err)
	}
	if p, err = b.node.Start(t.Context(), "sleep", "sleep", "1000"); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	if exit, err := p.Wait(t.Context()); err != nil || exit != 128+9 {
		t.Errorf("exit %d, %v", exit, err)
	}
}

func (b *bench) files(t *testing.T) {
	big := make([]byte, 5<<20)
	for i := range big {
		big[i] = byte(i * 7)
	}
	host := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(host, big, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.node.Put(t.Context(), host, "/opt/dir/big", 0o750); err != nil {
		t.Fatal(err)
	}
	if mode := b.shell(t, b.node, "stat -c %a /opt/dir/big; rm -f /tmp/x"); mode != "750" {
		t.Errorf("mode %s", mode)
	}
	if got, err := b.node.Get(t.Context(), "/opt/dir/big"); err != nil || string(got) != string(big) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if got, err := b.node.Get(t.Context(), "/proc/sys/kernel/hostname"); err != nil || string(got) != "node\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := b.node.Get(t.Context(), "/no/such/file"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that does not exist: %v", err)
	}
	if err := b.node.PutBytes(t.Context(), []byte("x"), "/proc/no/such", 0o600); err == nil {
		t.Error("wrote where nobody can")
	}
}

func (b *bench) dial(t *testing.T) {
	p, err := b.storage.Start(t.Context(), "web", "busybox", "httpd", "-f", "-p", "8080", "-h", "/etc")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Kill(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	b.dialUnix(t)
	b.shell(t, b.storage, "until ss -Hltn sport = :8080 | grep -q .; do sleep 0.1; done")
	direct, err := b.storage.Dial(t.Context(), "tcp", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	checkHTTP(t, direct)
	forwarded, err := net.Dial("tcp", b.storage.ForwardAddr(8080))
	if err != nil {
		t.Fatal(err)
	}
	checkHTTP(t, forwarded)
	if _, err := b.storage.Dial(t.Context(), "tcp", "127.0.0.1:8081"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port without a listener: %v", err)
	}
	if _, err := b.storage.Dial(t.Context(), "unix", "/run/none.sock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket that does not exist: %v", err)
	}
}

// dialUnix talks to this test program, which serves an echo in the machine.
func (b *bench) dialUnix(t *testing.T) {
	const socket = "/run/echo.sock"
	if err := b.storage.Put(t.Context(), os.Args[0], "/run/echo", 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := b.storage.Start(t.Context(), "echo", "env", echoEnv+"="+socket, "/run/echo")
	if err != nil {
		t.Fatal(err)
	}
	b.shell(t, b.storage, "for i in $(seq 100); do [ -S "+socket+" ] && exit 0; sleep 0.1; done; cat /var/log/echo.log; exit 1")
	conn, err := b.storage.Dial(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("over a unix socket")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "over a unix socket" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	b.shell(t, b.storage, "rm /run/echo")
}

func checkHTTP(t *testing.T, conn net.Conn) {
	t.Helper()
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("GET /hostname HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasSuffix(string(answer), "storage\n") {
		t.Errorf("got %q, %v", answer, err)
	}
}
