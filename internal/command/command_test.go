package command_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/command"
)

func run(t *testing.T, script string, args ...string) (string, error) {
	t.Helper()
	out, err := command.Exec{}.Run(t.Context(), "sh", append([]string{"-c", script, "sh"}, args...)...)
	return string(out), err
}

func TestRun(t *testing.T) {
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	t.Setenv("HOLDFAST_TEST", "kept")
	out, err := run(t, `echo "$LC_ALL $HOLDFAST_TEST"; echo noise >&2; echo "<$1>"`, "a b; exit 9")
	if err != nil || out != "C kept\n<a b; exit 9>\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestFailure(t *testing.T) {
	out, err := run(t, "echo partly; echo why >&2; exit 7")
	var e *command.ExitError
	if !errors.As(err, &e) || e.Code != 7 || e.Stderr != "why\n" || e.Name != "sh" || len(e.Args) != 3 || out != "partly\n" {
		t.Fatalf("got %q, %+v", out, err)
	}
	for _, part := range []string{"sh -c", "exit status 7", "why"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
	if _, err := run(t, "exit 1"); err == nil || !strings.Contains(err.Error(), "said nothing") {
		t.Errorf("got %v", err)
	}
	if _, err := run(t, "kill -9 $$"); !errors.As(err, &e) || e.Code != -1 || !strings.Contains(err.Error(), "signal") {
		t.Errorf("got %v", err)
	}
}

func TestNoSuchProgram(t *testing.T) {
	_, err := command.Exec{}.Run(t.Context(), "holdfast-no-such-program")
	if !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "holdfast-no-such-program") {
		t.Errorf("got %v", err)
	}
}

// A program that says more than is kept is not blocked, and what came first is
// what is kept.
func TestOutputIsBounded(t *testing.T) {
	out, err := run(t, "echo first; head -c 1000000 /dev/zero; echo last >&2; head -c 1000000 /dev/zero >&2; exit 1")
	var e *command.ExitError
	if !errors.As(err, &e) || !strings.HasPrefix(e.Stderr, "last\n") || len(e.Stderr) > 1<<17 {
		t.Errorf("got %v", len(e.Stderr))
	}
	if !bytes.HasPrefix([]byte(out), []byte("first\n")) || len(out) > 1<<17 {
		t.Errorf("kept %d bytes", len(out))
	}
}

// The children go with the program.
func TestContextKillsTheGroup(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := command.Exec{}.Run(ctx, "sh", "-c", `sleep 600 & echo $! >"$1.new"; mv "$1.new" "$1"; wait`, "sh", pid)
		done <- err
	}()
	var child int
	for child == 0 {
		b, err := os.ReadFile(pid)
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		if child, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	for !gone(child) {
		time.Sleep(time.Millisecond)
	}
}

// gone: no such process, or one that only waits for its parent to look.
func gone(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ") || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// A child that left the group keeps the pipes open. It does not keep the caller.
func TestAbandonsWhatHoldsThePipes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := command.Exec{}.Run(ctx, "sh", "-c", "setsid sleep 8 & wait")
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 7*time.Second {
		t.Errorf("got %v after %v", err, time.Since(begin))
	}
}

// What had ended well before the context did has ended well.
func TestSuccessCounts(t *testing.T) {
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		out, err := command.Exec{}.Run(ctx, "echo", "x")
		cancel()
		if err != nil || string(out) != "x\n" {
			t.Fatalf("got %q, %v", out, err)
		}
	}
}

// A program does not keep the priority of whoever runs it.
func TestUsualPriority(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the rule is for a process that runs as root, and so is this test")
	}
	setNice := func(n int) {
		t.Helper()
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range threads {
			tid, _ := strconv.Atoi(x.Name())
			if err := syscall.Setpriority(syscall.PRIO_PROCESS, tid, n); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
			attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}
			if n == 0 {
				attr = &unix.SchedAttr{Size: unix.SizeofSchedAttr}
			}
			if err := unix.SchedSetAttr(tid, attr, 0); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Logf("in real time it is not tried: %v", err)
			}
		}
	}
	setNice(5)
	defer setNice(0)
	out, err := run(t, "sleep 0.1; cut -d' ' -f19,40,41 /proc/self/stat")
	if out != "0 0 0\n" {
		t.Errorf("niceness, real-time priority and policy %q, %v", out, err)
	}
}
