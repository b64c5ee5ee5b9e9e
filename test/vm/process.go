//go:build linux

package vm

import (
	"context"
	"fmt"
	"syscall"

	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

// Process is a program in the background of a machine. It ends with the machine at the latest.
type Process struct {
	m       *Machine
	session *session
	name    string
	id      int
	pid     int
}

// Start starts a program in the background. Its outputs are appended to /var/log/<name>.log in the machine; a name may be
// used again, for the next start of the same service.
func (m *Machine) Start(ctx context.Context, name string, argv ...string) (*Process, error) {
	s, err := m.current()
	if err != nil {
		return nil, err
	}
	res, err := m.simple(ctx, wire.Request{Op: wire.OpStart, Name: name, Argv: argv})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &Process{m: m, session: s, name: name, id: res.ID, pid: res.Pid}, nil
}

// request asks about the process, in the boot in which it was started.
func (p *Process) request(ctx context.Context, req wire.Request) (wire.Result, error) {
	if s, err := p.m.current(); err != nil || s != p.session {
		return wire.Result{}, fmt.Errorf("process %s: machine %s has lost power since it was started", p.name, p.m.cfg.Name)
	}
	req.ID = p.id
	ctx, cancel := bounded(ctx, runTimeout, req.Op+" "+p.name)
	defer cancel()
	res, err := p.m.simple(ctx, req)
	if err != nil {
		return res, fmt.Errorf("process %s: %w", p.name, err)
	}
	return res, nil
}

// Pid returns the process ID in the machine; it is the process group's and session's too.
func (p *Process) Pid() int { return p.pid }

// Signal sends a signal to the program and its children. ESRCH means that the program has ended.
func (p *Process) Signal(ctx context.Context, sig syscall.Signal) error {
	_, err := p.request(ctx, wire.Request{Op: wire.OpSignal, Signal: int(sig)})
	return err
}

// Kill ends the program and its children and waits for the program's end.
func (p *Process) Kill(ctx context.Context) error {
	running, err := p.Running(ctx)
	if err != nil || !running {
		return err
	}
	if err := p.Signal(ctx, syscall.SIGKILL); err != nil {
		return err
	}
	_, err = p.Wait(ctx)
	return err
}

// Wait waits for the program's end. A program ended by signal N has exit code 128+N, as in a shell.
func (p *Process) Wait(ctx context.Context) (exit int, err error) {
	res, err := p.request(ctx, wire.Request{Op: wire.OpWait})
	return res.Exit, err
}

// Running tells whether the program has not ended.
func (p *Process) Running(ctx context.Context) (bool, error) {
	res, err := p.request(ctx, wire.Request{Op: wire.OpStatus})
	return res.Running, err
}

// Log returns what the program, and those before it under the same name since boot, have written.
func (p *Process) Log(ctx context.Context) (string, error) {
	log, err := p.m.Get(ctx, "/var/log/"+p.name+".log")
	return string(log), err
}
