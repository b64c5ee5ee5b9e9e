package nvmet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Op is a kind of configfs operation.
type Op string

// The operations a plan is made of.
const (
	OpMkdir   Op = "mkdir"
	OpRmdir   Op = "rmdir"
	OpWrite   Op = "write"
	OpSymlink Op = "symlink"
	OpUnlink  Op = "unlink"
)

// Step is one configfs operation.
type Step struct {
	Op   Op
	Path string
	// Value is what OpWrite writes.
	Value string
	// Target is what OpSymlink links to, relative to the target's root.
	Target string
	// Object names, for people, what the step is about.
	Object string
}

// String returns the step as a line of a log.
func (s Step) String() string {
	switch s.Op {
	case OpWrite:
		return fmt.Sprintf("%s %s=%q", s.Op, s.Path, s.Value)
	case OpSymlink:
		return fmt.Sprintf("%s %s -> %s", s.Op, s.Path, s.Target)
	default:
		return fmt.Sprintf("%s %s", s.Op, s.Path)
	}
}

// StepError says which step failed. The errno is still to be found in it:
// errors.Is(err, syscall.EADDRINUSE) when the address of a port is in use.
type StepError struct {
	Step Step
	Err  error
}

func (e *StepError) Error() string {
	return fmt.Sprintf("%s: %s: %v", e.Step.Object, e.Step, e.Err)
}

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }

// Apply carries out steps in order and stops at the first that fails, with a
// *StepError. What is already there or already gone is not a failure. ctx is
// looked at between steps: removing a namespace waits, in the kernel, for the
// I/O in flight and cannot be interrupted (see Withdrawer).
func Apply(ctx context.Context, t Tree, steps []Step) error {
	for _, s := range steps {
		err := ctx.Err()
		if err == nil {
			err = s.apply(t)
		}
		if err != nil && !s.harmless(err) {
			return &StepError{Step: s, Err: err}
		}
	}
	return nil
}

func (s Step) apply(t Tree) error {
	switch s.Op {
	case OpMkdir:
		return t.Mkdir(s.Path)
	case OpRmdir:
		return t.Rmdir(s.Path)
	case OpWrite:
		return t.WriteFile(s.Path, s.Value)
	case OpSymlink:
		return s.link(t)
	case OpUnlink:
		return t.Unlink(s.Path)
	default:
		return fmt.Errorf("%w: operation %q", ErrDesired, s.Op)
	}
}

// link makes the link and, when the host it points to has been removed since
// the plan was made (another subsystem of that host went away meanwhile),
// makes the host again.
func (s Step) link(t Tree) error {
	err := t.Symlink(s.Target, s.Path)
	if !gone(err) || !strings.HasPrefix(s.Target, dirHosts+"/") {
		return err
	}
	if err := t.Mkdir(s.Target); err != nil && !errors.Is(err, syscall.EEXIST) {
		return err
	}
	return t.Symlink(s.Target, s.Path)
}

func (s Step) harmless(err error) bool {
	switch s.Op {
	case OpMkdir, OpSymlink:
		return errors.Is(err, syscall.EEXIST)
	case OpUnlink:
		return errors.Is(err, syscall.ENOENT)
	case OpRmdir:
		if errors.Is(err, syscall.ENOENT) {
			return true
		}
		shared := strings.HasPrefix(s.Path, dirHosts+"/") || strings.HasPrefix(s.Path, dirPorts+"/")
		return shared && (errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.ENOTEMPTY))
	default:
		return false
	}
}
