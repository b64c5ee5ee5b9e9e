//go:build linux

package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const commandTimeout = 10 * time.Second

// monitor is a QMP session. Events are read and thrown away.
type monitor struct {
	file    *os.File
	replies chan reply
	broken  chan struct{} // closed when the reader has ended

	mu sync.Mutex // one command at a time
}

type reply struct {
	Greeting *json.RawMessage `json:"QMP"`
	Return   *json.RawMessage `json:"return"`
	Event    string           `json:"event"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// newMonitor waits for the greeting and leaves the negotiation mode.
func newMonitor(ctx context.Context, file *os.File) (*monitor, error) {
	m := &monitor{file: file, replies: make(chan reply, 1), broken: make(chan struct{})}
	go m.read()
	if _, err := m.next(ctx); err != nil {
		file.Close()
		return nil, fmt.Errorf("wait for greeting: %w", err)
	}
	if err := m.execute(ctx, "qmp_capabilities", nil); err != nil {
		file.Close()
		return nil, err
	}
	return m, nil
}

func (m *monitor) close() { m.file.Close() }

func (m *monitor) read() {
	defer close(m.broken)
	dec := json.NewDecoder(m.file)
	for {
		var r reply
		if err := dec.Decode(&r); err != nil {
			return
		}
		if r.Event != "" {
			continue
		}
		select {
		case m.replies <- r:
		default: // an answer to a command that was given up
		}
	}
}

func (m *monitor) next(ctx context.Context) (reply, error) {
	select {
	case r := <-m.replies:
		return r, nil
	case <-m.broken:
		return reply{}, io.ErrUnexpectedEOF
	case <-ctx.Done():
		return reply{}, context.Cause(ctx)
	}
}

// execute sends a command and waits for its answer.
func (m *monitor) execute(ctx context.Context, command string, arguments any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	line, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode %s: %w", command, err)
	}
	if _, err := m.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("send %s: %w", command, err)
	}
	r, err := m.next(ctx)
	if err != nil {
		return fmt.Errorf("wait for the answer to %s: %w", command, err)
	}
	if r.Error != nil {
		return fmt.Errorf("%s: %w", command, errors.New(r.Error.Desc))
	}
	return nil
}
