//go:build linux

package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

// Result is what a program that has ended left behind.
type Result struct {
	Stdout, Stderr string
	Exit           int
}

// ExitError reports a program that ended with a code other than 0.
type ExitError struct {
	Machine string
	Argv    []string
	Result
}

func (e *ExitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "machine %s: %s: exit %d", e.Machine, commandText(e.Argv), e.Exit)
	for _, out := range []struct{ name, text string }{{"stdout", e.Stdout}, {"stderr", e.Stderr}} {
		if text := strings.TrimSpace(out.text); text != "" {
			fmt.Fprintf(&b, "\n%s: %s", out.name, text)
		}
	}
	return b.String()
}

// Cmd is a program to be run in a machine, in the manner of os/exec. When its context ends, the program and its children
// are killed.
type Cmd struct {
	Argv   []string
	Env    []string // added to PATH, HOME and the like
	Dir    string
	Stdin  io.Reader // nil = nothing to read
	Stdout io.Writer // nil = discarded
	Stderr io.Writer

	m   *Machine
	ctx context.Context //nolint:containedctx // as in os/exec
}

// Command prepares a program. A context without deadline gets one of ten minutes.
func (m *Machine) Command(ctx context.Context, argv ...string) *Cmd {
	return &Cmd{Argv: argv, m: m, ctx: ctx}
}

// Run runs the program to its end. The error is an *ExitError, without outputs, if it ended with a code other than 0.
func (c *Cmd) Run() error {
	exit, err := c.run()
	if err != nil {
		return err
	}
	if exit != 0 {
		return &ExitError{Machine: c.m.cfg.Name, Argv: c.Argv, Result: Result{Exit: exit}}
	}
	return nil
}

func (c *Cmd) run() (exit int, err error) {
	ctx, cancel := bounded(c.ctx, runTimeout, commandText(c.Argv))
	defer cancel()
	ch, release, err := c.m.open(ctx, wire.Request{
		Op: wire.OpExec, Argv: c.Argv, Env: c.Env, Dir: c.Dir, Stdin: c.Stdin != nil,
	})
	if err != nil {
		return 0, err
	}
	defer release()
	if c.Stdin != nil {
		go func() {
			// Errors show where the output is read; a program may well end without reading all its input.
			_, _ = io.Copy(ch.Writer(wire.Data), c.Stdin)
			_ = ch.WriteFrame(wire.EOF, nil)
		}()
	}
	res, err := c.m.finish(ctx, ch, commandText(c.Argv), orDiscard(c.Stdout), orDiscard(c.Stderr))
	return res.Exit, err
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// Run runs a program to its end and returns its outputs. The error is an *ExitError if it ended with a code other than 0;
// the Result is valid then too.
func (m *Machine) Run(ctx context.Context, argv ...string) (Result, error) {
	var stdout, stderr bytes.Buffer
	cmd := m.Command(ctx, argv...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	exit, err := cmd.run()
	res := Result{Stdout: stdout.String(), Stderr: stderr.String(), Exit: exit}
	if err != nil {
		return res, err
	}
	if exit != 0 {
		return res, &ExitError{Machine: m.cfg.Name, Argv: argv, Result: res}
	}
	return res, nil
}

// Shell runs a bash script that stops at the first error, and returns its standard output without the last newlines.
func (m *Machine) Shell(ctx context.Context, script string) (string, error) {
	res, err := m.Run(ctx, "bash", "-ec", script)
	return strings.TrimRight(res.Stdout, "\n"), err
}
