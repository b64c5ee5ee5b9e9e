//go:build linux

package vm

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/vm/internal/guest"
	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

// fakeQEMU is a hypervisor under which nothing runs.
type fakeQEMU struct{ done chan struct{} }

func (f *fakeQEMU) Done() <-chan struct{}                     { return f.done }
func (f *fakeQEMU) Kill()                                     { close(f.done) }
func (*fakeQEMU) Stderr() string                              { return "" }
func (*fakeQEMU) SetLink(context.Context, string, bool) error { return nil }
func (*fakeQEMU) Continue(context.Context) error              { return nil }

// newPipeMachine is a machine whose control channel leads, over net.Pipe, to the server that runs in real machines. Its
// programs and files are those of this machine.
func newPipeMachine(t *testing.T) *Machine {
	t.Helper()
	lab := &Lab{cfg: LabConfig{Name: "test", Log: t.Logf}}
	s := &session{token: "token", qemu: &fakeQEMU{make(chan struct{})}, parked: make(chan *channel)}
	m := &Machine{lab: lab, cfg: MachineConfig{Name: "pipe"}, dir: t.TempDir(), session: s}
	server := guest.NewServer(wire.Config{}, t.TempDir())
	ctx := t.Context()
	go func() {
		for {
			ours, theirs := net.Pipe()
			go serveOne(server, theirs)
			select {
			case s.parked <- &channel{Conn: wire.NewConn(ours), raw: ours}:
			case <-s.qemu.Done():
				ours.Close()
				return
			case <-ctx.Done():
				ours.Close()
				return
			}
		}
	}()
	return m
}

func serveOne(server *guest.Server, stream net.Conn) {
	conn := wire.NewConn(stream)
	var req wire.Request
	if err := conn.ReadLine(&req); err != nil {
		conn.Close()
		return
	}
	server.Handle(conn, req)
}

func TestRun(t *testing.T) {
	m := newPipeMachine(t)
	res, err := m.Run(t.Context(), "sh", "-c", "echo out; echo err >&2; exit 3")
	exit, ok := errors.AsType[*ExitError](err)
	if !ok || exit.Exit != 3 || res != exit.Result || res.Stdout != "out\n" || res.Stderr != "err\n" {
		t.Errorf("got %+v, %v", res, err)
	}
	for _, word := range []string{"pipe", "exit 3", "stdout: out", "stderr: err"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
	if res, err := m.Run(t.Context(), "sh", "-c", "kill -9 $$"); res.Exit != 137 {
		t.Errorf("killed: %+v, %v", res, err)
	}
	_, err = m.Run(t.Context(), "/no/such/program")
	if _, ok := errors.AsType[*ExitError](err); ok || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a program that does not exist: %v", err)
	}
	if _, err := m.Run(t.Context()); err == nil {
		t.Error("ran nothing")
	}
}

func TestCommand(t *testing.T) {
	m := newPipeMachine(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("0123456789abcdef", 1<<17) // 2 MiB: more than a pipe holds
	cmd := m.Command(t.Context(), "sh", "-c", "cat; echo $X; pwd")
	var out strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Env, cmd.Dir = strings.NewReader(big), &out, []string{"X=y"}, dir
	if err := cmd.Run(); err != nil || out.String() != big+"y\n"+dir+"\n" {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
	// Input that nobody reads holds nothing up.
	cmd = m.Command(t.Context(), "true")
	cmd.Stdin = strings.NewReader(big)
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
	// A program that leaves a child with its output is done when it has ended itself.
	start := time.Now()
	if _, err := m.Run(t.Context(), "sh", "-c", "sleep 30 & echo $!"); err != nil || time.Since(start) > 20*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
}

func TestContextKillsProgram(t *testing.T) {
	m := newPipeMachine(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	cmd := m.Command(ctx, "sh", "-c", "echo $$; sleep 1000 & wait")
	cmd.Stdout = w
	done := make(chan error, 1)
	go func() { done <- cmd.Run() }()
	pid := make([]byte, 32)
	n, err := r.Read(pid)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	proc := "/proc/" + strings.TrimSpace(string(pid[:n]))
	for deadline := time.Now().Add(20 * time.Second); ; {
		if _, err := os.Stat(proc); errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there", proc)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestProcess(t *testing.T) {
	m := newPipeMachine(t)
	p, err := m.Start(t.Context(), "job", "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.01; done")
	if err != nil {
		t.Fatal(err)
	}
	if running, err := p.Running(t.Context()); err != nil || !running || p.Pid() <= 0 {
		t.Errorf("running %v, %v, pid %d", running, err, p.Pid())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait with a deadline: %v", err)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	if exit, err := p.Wait(t.Context()); err != nil || exit != 137 {
		t.Errorf("exit %d, %v", exit, err)
	}
	if err := p.Signal(t.Context(), syscall.SIGTERM); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("signal after the end: %v", err)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Errorf("second kill: %v", err)
	}
	if err := m.PowerCut(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Running(t.Context()); err == nil || !strings.Contains(err.Error(), "lost power") {
		t.Errorf("after the power cut: %v", err)
	}
}

func TestFiles(t *testing.T) {
	m := newPipeMachine(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "new", "file")
	content := []byte(strings.Repeat("x", 3<<20))
	if err := m.PutBytes(t.Context(), content, path, 0o640); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	if got, err := m.Get(t.Context(), path); err != nil || string(got) != string(content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := m.Put(t.Context(), path, path+"2", 0o600); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "new", ".put-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind %q, %v", left, err)
	}
	if _, err := m.Get(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that does not exist: %v", err)
	}
	if err := m.PutBytes(t.Context(), content, filepath.Join(path, "below a file"), 0o600); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
	if got, err := m.Get(t.Context(), "/proc/self/comm"); err != nil || len(got) == 0 {
		t.Errorf("a file without a size: %q, %v", got, err)
	}
}

func TestDial(t *testing.T) {
	m := newPipeMachine(t)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.CopyN(conn, conn, 4)
		_, _ = conn.Write([]byte("bye"))
	}()
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := m.Dial(ctx, "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // bounds the dialling only
	defer conn.Close()
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "pingbye" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Dial(t.Context(), "unix", socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := m.Dial(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestMachineThatIsOff(t *testing.T) {
	m := newPipeMachine(t)
	if err := m.PowerCut(); err != nil || m.Running() {
		t.Fatalf("power cut: %v, running %v", err, m.Running())
	}
	if err := m.PowerCut(); err != nil {
		t.Errorf("second power cut: %v", err)
	}
	if err := m.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if _, err := m.Shell(t.Context(), "true"); err == nil || !strings.Contains(err.Error(), "off") {
		t.Errorf("got %v", err)
	}
}

// TestMachineGoesOff: a request that waits for a machine which then loses power ends with the reason and the console.
func TestMachineGoesOff(t *testing.T) {
	s := &session{qemu: &fakeQEMU{make(chan struct{})}, parked: make(chan *channel)}
	m := &Machine{lab: &Lab{cfg: LabConfig{Log: t.Logf}}, cfg: MachineConfig{Name: "m"}, dir: t.TempDir(), session: s}
	if err := os.WriteFile(m.consolePath(), []byte("Kernel panic\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(10*time.Millisecond, s.qemu.Kill)
	if _, err := m.Get(t.Context(), "/x"); err == nil || !strings.Contains(err.Error(), "went off") ||
		!strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("got %v", err)
	}
}
