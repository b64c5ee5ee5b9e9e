package utils

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// says is an error of the driver's kind.
type says struct {
	retryable bool
	cause     error
}

func (s says) Error() string   { return fmt.Sprintf("retryable %t: %v", s.retryable, s.cause) }
func (s says) Retryable() bool { return s.retryable }
func (s says) Unwrap() error   { return s.cause }

// slow has a Timeout method.
type slow bool

func (s slow) Error() string { return "slow" }
func (s slow) Timeout() bool { return bool(s) }

func TestIsRetryableErrorByType(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"nil", nil, false},
		{"plain", errors.New("no"), false},
		{"errno", syscall.ECONNREFUSED, true},
		{"wrapped errno", fmt.Errorf("a: %w", fmt.Errorf("b: %w", syscall.EHOSTUNREACH)), true},
		{"errno in a path error", &fs.PathError{Op: "write", Path: "/dev/nvme-fabrics", Err: syscall.ETIMEDOUT}, true},
		{"errno in a network error", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, true},
		{"errno among others", errors.Join(errors.New("x"), syscall.ENETUNREACH), true},
		{"final errno", syscall.EINVAL, false},
		{"final errno with a text that may pass", fmt.Errorf("connection refused: %w", syscall.EINVAL), false},
		{"EIO alone", syscall.EIO, false},
		{"time-out", slow(true), true},
		{"no time-out", slow(false), false},
		{"time-out deep inside", &fs.PathError{Op: "read", Path: "x", Err: fmt.Errorf("y: %w", slow(true))}, true},
		{"time-out among others", errors.Join(slow(false), slow(true)), true},
		{"deadline of an inner context", fmt.Errorf("call: %w", context.DeadlineExceeded), true},
		{"deadline of a file", os.ErrDeadlineExceeded, true},
		{"says yes", says{true, errors.New("x")}, true},
		{"says yes of a final errno", fmt.Errorf("z: %w", says{true, syscall.EIO}), true},
		{"says no of an errno that may pass", says{false, syscall.ECONNREFUSED}, false},
		{"says no of a text that may pass", says{false, errors.New("i/o timeout")}, false},
		{"canceled", context.Canceled, false},
		{"canceled, and an errno", fmt.Errorf("%w: %w", syscall.ECONNREFUSED, context.Canceled), false},
		{"canceled, and says yes", fmt.Errorf("%w: %w", says{true, nil}, context.Canceled), false},
	} {
		if got := IsRetryableError(c.err); got != c.want {
			t.Errorf("%s: %v: got %t", c.name, c.err, got)
		}
	}
}

func TestIsRetryableErrorByText(t *testing.T) {
	for text, want := range map[string]bool{
		"connection refused":                           true,
		"connection timeout":                           true,
		"no route to host":                             true,
		"network unreachable":                          true,
		"device did not appear within 30s":             true,
		"read tcp 10.0.0.1:1->10.0.0.2:2: i/o timeout": true,
		"dial: CONNECTION REFUSED":                     true,
		"Connection Timed Out":                         true,
		"Network is unreachable":                       true,
		"connection":                                   false,
		"timeout":                                      false,
		"invalid argument":                             false,
		"permission denied":                            false,
		"Input/output error":                           false,
		"no such file or directory":                    false,
		"already connected":                            false,
		"could not add new controller: failed to write to nvme-fabrics device": true, // libnvme 1.11 on
		"could not add new controller: connection refused":                     true,
		"could not add new controller: invalid arguments/configuration":        false,
	} {
		if got := IsRetryableError(errors.New(text)); got != want {
			t.Errorf("%q: got %t", text, got)
		}
	}
}

// lines reads a recording without its header.
func lines(t *testing.T, file string) (out [][]string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if !strings.HasPrefix(s.Text(), "#") {
			out = append(out, strings.Split(s.Text(), "\t"))
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s: nothing recorded", file)
	}
	return out
}

// An error number, its text by the C library and its text by Go are one thing.
func TestTextsAgreeWithNumbers(t *testing.T) {
	for _, l := range lines(t, "testdata/strerror.txt") {
		n, err := strconv.Atoi(l[0])
		if err != nil {
			t.Fatal(err)
		}
		errno := syscall.Errno(n)
		want := slices.Contains(retryableErrnos, errno) || errno == syscall.ERESTART // "Interrupted system call should be restarted"
		if got := IsRetryableError(errors.New("nvme: " + l[1])); got != want {
			t.Errorf("%d by the C library's text %q: got %t", n, l[1], got)
		}
		if got := IsRetryableError(errors.New("nvme: " + errno.Error())); got != want {
			t.Errorf("%d by Go's text %q: got %t", n, errno.Error(), got)
		}
		if got := IsRetryableError(errno); got != want && errno != syscall.ERESTART {
			t.Errorf("%d by number: got %t", n, got)
		}
	}
}

// What nvme-cli really prints, judged by the C library's text in it; EIO is
// retried, because a target that is not ready says the same.
func TestTextsOfNvmeCLI(t *testing.T) {
	files, err := filepath.Glob("testdata/nvme-cli-*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	final := []string{"No such device", "Cannot assign requested address", "Invalid argument", "already connected"}
	for _, file := range files {
		for _, l := range lines(t, file) {
			stderr, err := strconv.Unquote(l[1])
			if err != nil {
				t.Fatal(err)
			}
			want := !slices.ContainsFunc(final, func(s string) bool { return strings.Contains(stderr, s) })
			if got := IsRetryableError(errors.New("nvme connect: " + stderr)); got != want {
				t.Errorf("%s: %q: got %t", file, stderr, got)
			}
		}
	}
}

func TestDefaultBackoffConfig(t *testing.T) {
	b := DefaultBackoffConfig()
	if b.Steps != 5 || b.Duration != time.Second || b.Factor != 2 || b.Jitter != 0.1 || b.Cap != 0 {
		t.Errorf("got %+v", b)
	}
}

// Pauses are 1, 2, 4 and 8 s, each at most a tenth longer, however the dice fall.
func TestPauses(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			last := time.Now()
			var pauses []time.Duration
			err := RetryWithBackoff(t.Context(), DefaultBackoffConfig(), func() error {
				pauses = append(pauses, time.Since(last))
				last = time.Now()
				return syscall.ECONNREFUSED
			})
			if !wait.Interrupted(err) || len(pauses) != 5 || pauses[0] != 0 || time.Since(last) != 0 {
				t.Fatalf("%v after pauses %v", err, pauses)
			}
			for i, p := range pauses[1:] {
				if base := time.Second << i; p < base || p > base+base/10 {
					t.Errorf("pause %d is %v", i+1, p)
				}
			}
		})
	}
}

func TestRetryWithBackoff(t *testing.T) {
	final := errors.New("final")
	for _, c := range []struct {
		name   string
		fails  []error // of the first calls; then nil
		want   error   // exactly
		calls  int
		passes bool
	}{
		{"at once", nil, nil, 1, true},
		{"third time", []error{syscall.EAGAIN, errors.New("i/o timeout")}, nil, 3, true},
		{"final", []error{final}, final, 1, false},
		{"final after a retry", []error{syscall.ETIMEDOUT, final}, final, 2, false},
		{"canceled by itself", []error{context.Canceled}, context.Canceled, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				err := RetryWithBackoff(t.Context(), DefaultBackoffConfig(), func() error {
					calls++
					if calls <= len(c.fails) {
						return c.fails[calls-1]
					}
					return nil
				})
				if err != c.want || calls != c.calls {
					t.Errorf("got %v after %d calls", err, calls)
				}
			})
		})
	}
}

func TestExhaustionKeepsTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		err := RetryWithBackoff(t.Context(), DefaultBackoffConfig(), func() error {
			calls++
			if calls == 5 {
				return fmt.Errorf("the last: %w", syscall.EHOSTUNREACH)
			}
			return syscall.ECONNREFUSED
		})
		if !wait.Interrupted(err) || !errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ECONNREFUSED) ||
			!strings.Contains(err.Error(), "the last") || !strings.Contains(err.Error(), "5 attempts") {
			t.Errorf("got %v", err)
		}
	})
}

func TestContextEnds(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := RetryWithBackoff(ctx, DefaultBackoffConfig(), func() error { t.Error("called"); return nil })
		if !wait.Interrupted(err) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("in a pause", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(300*time.Millisecond, cancel)
			begin := time.Now()
			err := RetryWithBackoff(ctx, DefaultBackoffConfig(), func() error { return syscall.ECONNREFUSED })
			if d := time.Since(begin); d != 300*time.Millisecond {
				t.Errorf("returned after %v", d)
			}
			if !wait.Interrupted(err) || !errors.Is(err, context.Canceled) || !errors.Is(err, syscall.ECONNREFUSED) || IsRetryableError(err) {
				t.Errorf("got %v", err)
			}
		})
	})
	t.Run("by its deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
			defer cancel()
			calls := 0
			err := RetryWithBackoff(ctx, DefaultBackoffConfig(), func() error { calls++; return syscall.ECONNREFUSED })
			if calls != 2 || !wait.Interrupted(err) || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("got %v after %d calls", err, calls)
			}
		})
	})
	t.Run("no steps", func(t *testing.T) {
		err := RetryWithBackoff(t.Context(), wait.Backoff{}, func() error { t.Error("called"); return nil })
		if !wait.Interrupted(err) {
			t.Errorf("got %v", err)
		}
	})
}
