//go:build linux

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

const (
	// simpleTimeout bounds requests that a healthy machine answers at once.
	simpleTimeout = time.Minute
	// runTimeout bounds programs that run under a context without a deadline.
	runTimeout = 10 * time.Minute
)

// RequestError is what a machine answered instead of carrying out a request.
type RequestError struct {
	Machine string
	Op      string
	Text    string
	Errno   syscall.Errno // 0 if no system call was the cause
}

func (e *RequestError) Error() string {
	return fmt.Sprintf("machine %s: %s: %s", e.Machine, e.Op, e.Text)
}

// Unwrap makes errors.Is work with errno values such as ECONNREFUSED and with fs.ErrNotExist.
func (e *RequestError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// bounded makes sure that a wait has an end.
func bounded(ctx context.Context, limit time.Duration, what string) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s: no answer after %s", what, limit))
}

// open sends a request. The connection is closed when ctx ends, and release must be called when it is done with.
func (m *Machine) open(ctx context.Context, req wire.Request) (c *channel, release func(), err error) {
	s, err := m.current()
	if err != nil {
		return nil, nil, err
	}
	if c, err = s.take(ctx); err != nil {
		return nil, nil, m.explain(ctx, req.Op, err)
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	release = func() {
		stop()
		c.Close()
	}
	if err := c.WriteLine(req); err != nil {
		release()
		return nil, nil, m.explain(ctx, req.Op, err)
	}
	return c, release, nil
}

// explain adds what an error of the control channel usually comes from: a deadline, or a machine that went off.
func (m *Machine) explain(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	err = fmt.Errorf("machine %s: %s: %w", m.cfg.Name, op, err)
	if m.Running() {
		return err
	}
	return fmt.Errorf("%w (the machine is off)\n%s", err, m.Console())
}

// finish reads frames up to the Result. Data and Stderr frames go to the writers given.
func (m *Machine) finish(ctx context.Context, c *channel, op string, stdout, stderr io.Writer) (wire.Result, error) {
	for {
		t, payload, err := c.ReadFrame()
		if err != nil {
			return wire.Result{}, m.explain(ctx, op, err)
		}
		switch t {
		case wire.Data:
			_, err = stdout.Write(payload)
		case wire.Stderr:
			_, err = stderr.Write(payload)
		case wire.Final:
			return m.result(op, payload)
		case wire.EOF:
		}
		if err != nil {
			return wire.Result{}, fmt.Errorf("machine %s: %s: output: %w", m.cfg.Name, op, err)
		}
	}
}

func (m *Machine) result(op string, payload []byte) (wire.Result, error) {
	var res wire.Result
	if err := json.Unmarshal(payload, &res); err != nil {
		return res, fmt.Errorf("machine %s: %s: decode result: %w", m.cfg.Name, op, err)
	}
	if res.Error != "" {
		return res, &RequestError{Machine: m.cfg.Name, Op: op, Text: res.Error, Errno: syscall.Errno(res.Errno)}
	}
	return res, nil
}

// simple carries out a request that has no data.
func (m *Machine) simple(ctx context.Context, req wire.Request) (wire.Result, error) {
	ctx, cancel := bounded(ctx, simpleTimeout, req.Op)
	defer cancel()
	c, release, err := m.open(ctx, req)
	if err != nil {
		return wire.Result{}, err
	}
	defer release()
	return m.finish(ctx, c, req.Op, io.Discard, io.Discard)
}

// Dial connects to an address inside the machine: "unix" and a path, or "tcp" and host:port as seen from the machine. The
// context bounds the dialling only.
func (m *Machine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	op := wire.OpDial + " " + network + " " + address
	ctx, cancel := bounded(ctx, simpleTimeout, op)
	defer cancel()
	s, err := m.current()
	if err != nil {
		return nil, err
	}
	c, err := s.take(ctx)
	if err != nil {
		return nil, m.explain(ctx, op, err)
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	req := wire.Request{Op: wire.OpDial, Network: network, Address: address}
	if err = c.WriteLine(req); err == nil {
		_, err = m.finish(ctx, c, op, io.Discard, io.Discard)
	} else {
		err = m.explain(ctx, op, err)
	}
	if !stop() && err == nil {
		err = m.explain(ctx, op, context.Cause(ctx))
	}
	if err != nil {
		return nil, errors.Join(err, ignoreClosed(c.Close()))
	}
	r, _ := c.Raw()
	return &guestConn{Conn: c.raw, r: r}, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// guestConn is a stream to an address in a machine. Its addresses are those of the control channel.
type guestConn struct {
	net.Conn
	r io.Reader // what was read ahead comes first
}

func (c *guestConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// CloseWrite ends the direction towards the machine only.
func (c *guestConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// commandText is for messages: a program with its arguments, not too long.
func commandText(argv []string) string {
	const limit = 300
	text := strings.Join(argv, " ")
	if len(text) > limit {
		text = text[:limit] + " ..."
	}
	return text
}
