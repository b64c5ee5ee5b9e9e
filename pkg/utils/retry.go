// Package utils is retrying, and nothing else: with exponential backoff on the
// Kubernetes wait package, and only what may pass by itself. It knows none of
// the driver's types; they speak through their methods.
package utils

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
)

// DefaultBackoffConfig is five attempts, 1 s, 2 s, 4 s and 8 s apart, each pause
// up to a tenth longer so that many callers do not come back at once.
func DefaultBackoffConfig() wait.Backoff {
	return wait.Backoff{Steps: 5, Duration: time.Second, Factor: 2, Jitter: 0.1}
}

// RetryWithBackoff calls fn until it returns nil, an error that cannot pass, or
// the steps or ctx are used up. An error that cannot pass is returned as it
// was. In the other two cases the result wraps the last cause, and
// wait.Interrupted holds for it.
func RetryWithBackoff(ctx context.Context, backoff wait.Backoff, fn func() error) error {
	var last error
	attempt := 0
	err := wait.ExponentialBackoffWithContext(ctx, backoff, func(context.Context) (bool, error) {
		attempt++
		last = fn()
		switch {
		case last == nil:
			return true, nil
		case IsRetryableError(last):
			klog.V(3).InfoS("Attempt failed, will be retried", "attempt", attempt, "of", backoff.Steps, "err", last)
			return false, nil
		default:
			return false, last
		}
	})
	switch {
	case err == nil:
		return nil
	case last != nil && !IsRetryableError(last):
		return last
	case last != nil:
		return fmt.Errorf("gave up after %d attempts: %w: %w", attempt, interrupted(err), last)
	default:
		return interrupted(err)
	}
}

// interrupted makes sure that wait.Interrupted holds for the error of a wait
// that ended early, also when ctx ended with a cause of its own.
func interrupted(err error) error {
	if wait.Interrupted(err) {
		return err
	}
	return wait.ErrorInterrupted(err)
}

// retryableErrnos are the errors of a network or a target that may come back
// (measured for /dev/nvme-fabrics on Linux 6.1 and 6.12), and of what is busy or
// was interrupted.
var retryableErrnos = []syscall.Errno{
	syscall.ECONNREFUSED, syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH,
	syscall.ECONNRESET, syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.EAGAIN, syscall.EINTR,
	syscall.ENOTCONN, syscall.ECONNABORTED, syscall.EPIPE, syscall.ENETRESET, syscall.EBUSY,
}

// retryableTexts are for errors that come only as text, lower-case. The first
// six are wordings of drivers and of Go; then follows what the C library says of
// retryableErrnos, the same for all of them; and what nvme-cli makes of EIO,
// which is every refusal of a target, also of one that is not ready yet.
var retryableTexts = []string{
	"connection refused", "connection timeout", "no route to host", "network unreachable",
	"device did not appear", "i/o timeout",
	"connection timed out", "network is unreachable", "connection reset by peer", "network is down", "host is down",
	"resource temporarily unavailable", "interrupted system call", "transport endpoint is not connected",
	"software caused connection abort", "broken pipe", "network dropped connection on reset", "device or resource busy",
	"failed to write to /dev/nvme-fabrics: input/output error",
}

// From libnvme 1.11 on nvme-cli says the second of these only when asked to be
// verbose, and the first for most error numbers. The first alone may be anything.
const (
	libnvmeFailed  = "failed to write to nvme-fabrics device"
	libnvmeBecause = "failed to write to /dev/nvme-fabrics: "
)

// IsRetryableError says whether err may pass by itself: by type first (an
// error number, a Retryable or a Timeout method), by text last.
func IsRetryableError(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var r interface{ Retryable() bool }
	if errors.As(err, &r) {
		return r.Retryable()
	}
	for _, e := range retryableErrnos {
		if errors.Is(err, e) {
			return true
		}
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return false // an error number that is not on the list is final, whatever its text
	}
	if timedOut(err) {
		return true
	}
	text := strings.ToLower(err.Error())
	for _, s := range retryableTexts {
		if strings.Contains(text, s) {
			return true
		}
	}
	return strings.Contains(text, libnvmeFailed) && !strings.Contains(text, libnvmeBecause)
}

// timedOut looks for a Timeout method that says yes anywhere in the tree:
// wrappers such as fs.PathError have one that knows only the next error.
func timedOut(err error) bool {
	if t, ok := err.(interface{ Timeout() bool }); ok && t.Timeout() {
		return true
	}
	switch w := err.(type) { //nolint:errorlint // the tree is walked by hand: see above
	case interface{ Unwrap() error }:
		return w.Unwrap() != nil && timedOut(w.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(w.Unwrap(), timedOut)
	}
	return false
}
