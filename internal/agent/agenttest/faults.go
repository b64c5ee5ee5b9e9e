package agenttest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/gate"
	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/pool"
)

// ErrKilled is what a killed agent gets from everything that it touches.
var ErrKilled = errors.New("the agent was killed")

// Faults counts the changes that an agent makes to the kernel, the gate and the
// pools, and can kill it at one of them: from then on nothing that it does has
// an effect, and its database is closed.
type Faults struct {
	// OnChange, if set, is called after each change, without locks held.
	OnChange func()

	mu     sync.Mutex
	onRead func()
	armed  bool
	at     int  // kill at the at-th change from now on, counted from 1
	after  bool // after its effect, else before
	dead   bool
	log    []string
	onKill func()
}

// SetOnRead sets what is called before each look at the kernel's tree.
func (f *Faults) SetOnRead(hook func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onRead = hook
}

// KillAt arms the fault. Counting starts now.
func (f *Faults) KillAt(n int, afterEffect bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed, f.at, f.after, f.log = true, n, afterEffect, nil
}

// Count starts counting without a fault.
func (f *Faults) Count() { f.KillAt(0, false) }

// Changes returns what was done since counting began.
func (f *Faults) Changes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

// Dead reports whether the fault has struck.
func (f *Faults) Dead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// Kill strikes now.
func (f *Faults) Kill() {
	f.mu.Lock()
	already := f.dead
	f.dead = true
	kill := f.onKill
	f.mu.Unlock()
	if !already && kill != nil {
		kill()
	}
}

func (f *Faults) change(what string, effect func() error) error {
	f.mu.Lock()
	if f.dead {
		f.mu.Unlock()
		return ErrKilled
	}
	f.log = append(f.log, what)
	strike := f.armed && len(f.log) == f.at
	after, hook := f.after, f.OnChange
	f.mu.Unlock()
	if strike && !after {
		f.Kill()
		return ErrKilled
	}
	err := effect()
	if hook != nil {
		hook()
	}
	if strike {
		f.Kill()
		return ErrKilled
	}
	return err
}

func (f *Faults) look() error {
	f.mu.Lock()
	dead, hook := f.dead, f.onRead
	f.mu.Unlock()
	if dead {
		return ErrKilled
	}
	if hook != nil {
		hook()
	}
	return nil
}

// tree is the kernel's target as a mortal agent sees it.
type tree struct {
	nvmet.Tree
	f *Faults
}

func (t tree) Mkdir(p string) error {
	return t.f.change("mkdir "+p, func() error { return t.Tree.Mkdir(p) })
}

func (t tree) Rmdir(p string) error {
	return t.f.change("rmdir "+p, func() error { return t.Tree.Rmdir(p) })
}

func (t tree) WriteFile(p, text string) error {
	return t.f.change("write "+p+"="+text, func() error { return t.Tree.WriteFile(p, text) })
}

func (t tree) Symlink(target, p string) error {
	return t.f.change("link "+p, func() error { return t.Tree.Symlink(target, p) })
}

func (t tree) Unlink(p string) error {
	return t.f.change("unlink "+p, func() error { return t.Tree.Unlink(p) })
}

func (t tree) ReadFile(p string) (string, error) {
	if err := t.f.look(); err != nil {
		return "", err
	}
	return t.Tree.ReadFile(p)
}

func (t tree) ReadDir(p string) ([]string, error) {
	if err := t.f.look(); err != nil {
		return nil, err
	}
	return t.Tree.ReadDir(p)
}

// mortalGate is the gate as a mortal agent sees it.
type mortalGate struct {
	gate.Gate
	f *Faults
}

func (g mortalGate) Close(ports ...uint16) error {
	return g.f.change("gate close", func() error { return g.Gate.Close(ports...) })
}

func (g mortalGate) Open(ports ...uint16) error {
	return g.f.change("gate open", func() error { return g.Gate.Open(ports...) })
}

// mortalPool is a pool as a mortal agent sees it.
type mortalPool struct {
	pool.Pool
	f *Faults
}

func (p mortalPool) Create(ctx context.Context, id uuid.UUID, size int64) error {
	return p.f.change("pool create", func() error { return p.Pool.Create(ctx, id, size) })
}

func (p mortalPool) Delete(ctx context.Context, id uuid.UUID) error {
	return p.f.change("pool delete", func() error { return p.Pool.Delete(ctx, id) })
}

// Lines puts what Changes returned on lines of their own, for messages.
func Lines(changes []string) string { return strings.Join(changes, "\n  ") }
