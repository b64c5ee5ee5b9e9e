// Package command runs programs, and is the only place that does. It sets the
// C locale, so that what a program says can be read; bounds what is kept of it;
// and ends the whole process group when the context ends.
//
// It takes no shell text and passes no secrets: arguments are visible to every
// process of the machine.
package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Runner runs a program and returns its standard output.
type Runner interface {
	Run(ctx context.Context, name string, args ...string) ([]byte, error)
}

// Exec is the real Runner.
type Exec struct{}

// waitDelay is how long a killed program may take to go. Its pipes are closed
// then, and if it hangs in the kernel it is left behind: killing does not end a
// program that waits for a dead disk, and its caller must not wait with it.
const waitDelay = 2 * time.Second

// maxOutput bounds what is kept of each of the two outputs, in bytes.
const maxOutput = 64 << 10

// ExitError is a program that ran and failed.
type ExitError struct {
	Name   string
	Args   []string
	Code   int // -1 if a signal ended it
	Stderr string
}

func (e *ExitError) Error() string {
	text := strings.TrimSpace(e.Stderr)
	if text == "" {
		text = "and said nothing"
	}
	how := fmt.Sprintf("exit status %d", e.Code)
	if e.Code < 0 {
		how = "ended by a signal"
	}
	return fmt.Sprintf("%s: %s: %s", strings.Join(append([]string{e.Name}, e.Args...), " "), how, text)
}

// Run runs name with args. A failure of the program is an *ExitError, with what
// it wrote to its standard output beside it; when ctx ends first, its error is
// wrapped.
func (Exec) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := run(ctx, name, args)
		done <- result{out, err}
	}()
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
	}
	t := time.NewTimer(2 * waitDelay)
	defer t.Stop()
	select {
	case r := <-done:
		return r.out, r.err
	case <-t.C:
		return nil, fmt.Errorf("%s: killed, and still hanging in the kernel: %w", name, ctx.Err())
	}
}

func run(ctx context.Context, name string, args []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	stdout, stderr := &limited{max: maxOutput}, &limited{max: maxOutput}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = waitDelay
	err := cmd.Start()
	if err == nil {
		// This process may be in more of a hurry than a program that it runs.
		_ = unix.SchedSetAttr(cmd.Process.Pid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0)
		_ = unix.Setpriority(unix.PRIO_PGRP, cmd.Process.Pid, 0)
		err = cmd.Wait()
	}
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", name, ctx.Err())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return stdout.buf.Bytes(), &ExitError{Name: name, Args: args, Code: exit.ExitCode(), Stderr: stderr.buf.String()}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return stdout.buf.Bytes(), nil
}

// limited keeps the first max bytes and swallows the rest, so that a chatty
// program neither blocks nor fills the memory.
type limited struct {
	buf bytes.Buffer
	max int
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.max - l.buf.Len(); room > 0 {
		l.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
