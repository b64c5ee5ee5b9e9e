package initiator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"syscall"

	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

// ErrAlreadyConnected means that a controller for the same host, subsystem and address
// exists. One that is reconnecting counts (Linux drivers/nvme/host/fabrics.h,
// nvmf_ctlr_matches_baseopts).
var ErrAlreadyConnected = errors.New("already connected")

const (
	opProbe   = "probe"
	opConnect = "connect"
)

// ConnectError is a portal that did not answer or a connect that failed. Err is
// the kernel's error number (syscall.Errno) where there was one.
type ConnectError struct {
	Op   string // "probe" or "connect"
	NQN  string
	Addr string // HOST:PORT
	Err  error
}

func (e *ConnectError) Error() string {
	s := fmt.Sprintf("%s %s at %s: %v", e.Op, e.NQN, e.Addr, e.Err)
	if h := e.hint(); h != "" {
		s += " (" + h + ")"
	}
	return s
}

// Unwrap gives the cause, and the word of the domain for it.
func (e *ConnectError) Unwrap() []error {
	switch {
	case errors.Is(e.Err, syscall.EALREADY):
		return []error{e.Err, ErrAlreadyConnected}
	case errors.Is(e.Err, context.Canceled):
		return []error{e.Err}
	case e.Retryable():
		return []error{e.Err, volume.ErrUnavailable}
	default:
		return []error{e.Err, volume.ErrPrecondition}
	}
}

// finalErrnos: the kernel or the interface refuses the options themselves, or
// the target the key (measured on Linux 6.1 and 6.12; the keys read in source).
// EIO is not among them: every NVMe status becomes EIO, also that of a target
// that is not ready yet.
var finalErrnos = []error{
	syscall.EINVAL, syscall.ENODEV, syscall.EADDRNOTAVAIL, syscall.EOPNOTSUPP, syscall.EADDRINUSE,
	syscall.EKEYREJECTED, syscall.ENOKEY, syscall.EKEYEXPIRED, syscall.EKEYREVOKED,
}

// Retryable says whether the same may succeed later. A probe may always: it has
// no options that could be wrong.
func (e *ConnectError) Retryable() bool {
	is := func(target error) bool { return errors.Is(e.Err, target) }
	if is(context.Canceled) || is(syscall.EALREADY) {
		return false
	}
	return e.Op == opProbe || !slices.ContainsFunc(finalErrnos, is)
}

// Timeout says whether the other side was silent. EAGAIN is a target that
// accepts the connection and does not speak.
func (e *ConnectError) Timeout() bool {
	return errors.Is(e.Err, syscall.ETIMEDOUT) || errors.Is(e.Err, syscall.EAGAIN) || errors.Is(e.Err, os.ErrDeadlineExceeded) ||
		errors.Is(e.Err, context.DeadlineExceeded)
}

// hint says what the error number usually means here.
func (e *ConnectError) hint() string {
	if e.Op != opConnect {
		return ""
	}
	for _, h := range []struct {
		err  error
		text string
	}{
		{syscall.EIO, "the target does not know this subsystem or does not allow this host; the kernel log says which"},
		{syscall.EAGAIN, "something accepts the connection and does not speak NVMe/TCP"},
		{syscall.ENOENT, "module nvme-tcp not loaded"},
		{syscall.EINVAL, "the kernel refuses an option, or another session of this machine has the same host ID and another host NQN, or the target has given the new controller the ID of one that is reconnecting; the kernel log says which"},
		{context.DeadlineExceeded, "the kernel goes on trying; the next call finds the result"},
	} {
		if errors.Is(e.Err, h.err) {
			return h.text
		}
	}
	return ""
}

// connectError returns nil for nil.
func connectError(op string, t nvme.Target, err error) error {
	if err == nil {
		return nil
	}
	return &ConnectError{Op: op, NQN: t.NQN, Addr: net.JoinHostPort(t.TargetAddress, strconv.Itoa(t.TargetPort)), Err: err}
}
