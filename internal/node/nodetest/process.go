package nodetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// ErrKilled is what a killed process gets from everything that it touches.
var ErrKilled = errors.New("the process was killed")

// Blow is how a step goes wrong.
type Blow int

// The blows. Fail and Break leave the process alive.
const (
	KillBefore Blow = iota // dies before the step has an effect
	KillDuring             // dies in the middle; what can be half done is
	KillAfter              // dies when the effect is there and the answer is not
	Fail                   // the step has no effect and fails, once
	Break                  // the step succeeds, and OnStrike is called after it
)

// Fault is where a process goes wrong.
type Fault struct {
	At       int    // the step, counted from 1 from Strike on
	Step     string // or the first one of this name, if At is 0
	Blow     Blow
	Err      error  // for Fail
	OnStrike func() // called when it strikes
}

// Process is the plugin as the machine sees it. It is a node.Options' Fabric,
// Sysfs, Mounter, Disk, Flusher and Guards.
type Process struct {
	m     *Machine
	agent node.Authorities

	mu     sync.Mutex
	dead   bool
	struck bool
	fault  Fault
	steps  []string
	gates  map[string]*gate
}

type gate struct {
	entered chan struct{}
	open    chan struct{}
}

// Start starts a process that asks agent.
func (m *Machine) Start(agent node.Authorities) *Process {
	return &Process{m: m, agent: agent, gates: map[string]*gate{}}
}

// Strike arms a fault and begins to count the steps.
func (p *Process) Strike(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.steps, p.struck = f, nil, false
}

// Steps returns what the process did since Strike.
func (p *Process) Steps() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.steps)
}

// Struck says whether the fault has struck.
func (p *Process) Struck() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.struck
}

// Hold stops the next step of that name in front of its effect. entered is
// closed when it is there; open lets it go on.
func (p *Process) Hold(step string) (entered <-chan struct{}, open func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := &gate{make(chan struct{}), make(chan struct{})}
	p.gates[step] = g
	return g.entered, sync.OnceFunc(func() { close(g.open) })
}

// step does one thing to the machine. torn is what half of it is; nil if it has
// no halves.
func (p *Process) step(name string, effect, torn func() error) error {
	p.mu.Lock()
	if p.dead {
		p.mu.Unlock()
		return ErrKilled
	}
	p.steps = append(p.steps, name)
	g := p.gates[name]
	delete(p.gates, name)
	f := p.fault
	strike := f.At > 0 && len(p.steps) == f.At || f.At == 0 && f.Step == name && !p.struck
	p.struck = p.struck || strike
	p.dead = p.dead || strike && f.Blow <= KillAfter
	p.mu.Unlock()
	if g != nil {
		close(g.entered)
		<-g.open
	}
	if !strike {
		return effect()
	}
	if f.OnStrike != nil {
		defer f.OnStrike()
	}
	switch f.Blow {
	case KillDuring:
		if torn != nil {
			return errors.Join(ErrKilled, torn())
		}
		return ErrKilled
	case KillAfter:
		return errors.Join(ErrKilled, effect())
	case Fail:
		return f.Err
	case Break:
		return effect()
	default:
		return ErrKilled
	}
}

// EnsureSession implements node.Options.Fabric.
func (p *Process) EnsureSession(ctx context.Context, s initiator.Session) error {
	return p.step("EnsureSession", func() error { return p.m.ensureSession(ctx, s) }, nil)
}

// WaitNamespace implements node.Options.Fabric.
func (p *Process) WaitNamespace(ctx context.Context, id initiator.Identity) (ns nvmesysfs.Namespace, device string, err error) {
	err = p.step("WaitNamespace", func() error {
		ns, device, err = p.m.waitNamespace(ctx, id)
		return err
	}, nil)
	return ns, device, err
}

// Disconnect implements node.Options.Fabric.
func (p *Process) Disconnect(_ context.Context, nqn string) error {
	return p.step("Disconnect", func() error { p.m.disconnect(nqn); return nil }, nil)
}

// SessionOf implements node.Options.Sysfs.
func (p *Process) SessionOf(nqn string, _ uint32) (s nvmesysfs.Snapshot, err error) {
	err = p.step("Session", func() error { s = p.m.session(nqn); return nil }, nil)
	return s, err
}

// Disk implements node.Options.Sysfs.
func (p *Process) Disk(name string) (nvmesysfs.Namespace, error) { return p.m.diskNamed(name) }

// Restore implements node.Options.Fabric.
func (p *Process) Restore(ctx context.Context, s initiator.Session) error {
	return p.step("Restore", func() error { return p.m.ensureSession(ctx, s) }, nil)
}

// Rescan implements node.Options.Fabric: the model's kernel misses nothing.
func (p *Process) Rescan(string) error { return nil }

// Inflight implements node.Options.Sysfs.
func (p *Process) Inflight(disk string) (n int, err error) {
	err = p.step("Inflight", func() error {
		p.m.mu.Lock()
		defer p.m.mu.Unlock()
		p.m.refresh()
		d := p.m.disks[disk]
		if d == nil || d.gone {
			return fmt.Errorf("inflight of %s: %w", disk, fs.ErrNotExist)
		}
		n = d.flying
		return nil
	}, nil)
	return n, err
}

// Own implements node.Options.Fabric: the machine has no other tools.
func (p *Process) Own() {}

// Limit implements node.Options.Fabric.
func (p *Process) Limit(nqn string, _ int) error {
	return p.step("Limit", func() error { p.m.limit(nqn); return nil }, nil)
}

// SetDelayedRemoval implements node.Options.Sysfs. A disk is deleted all the
// same when a test says Vanish.
func (p *Process) SetDelayedRemoval(disk string, seconds int) (bool, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	d := p.m.disks[disk]
	if p.m.deletes || d == nil {
		return false, nil
	}
	d.kept = seconds
	return true, nil
}

// Mounts implements node.Options.Mounter.
func (p *Process) Mounts() (list []filesystem.Mount, err error) {
	err = p.step("Mounts", func() error { list = p.m.mountTable(); return nil }, nil)
	return list, err
}

// MountDevice implements node.Options.Mounter.
func (p *Process) MountDevice(device, path string, kind filesystem.Kind, options []string) error {
	return p.step("MountDevice", func() error { return p.m.mountDevice(device, path, kind, options) }, nil)
}

// Bind implements node.Options.Mounter. Half of a read-only bind is one that is
// still writable.
func (p *Process) Bind(source, target string, readOnly bool) error {
	return p.step("Bind", func() error { return p.m.bind(source, target, readOnly) }, func() error { return p.m.bind(source, target, false) })
}

// Unmount implements node.Options.Mounter.
func (p *Process) Unmount(path string) error {
	return p.step("Unmount", func() error { return p.m.unmount(path) }, nil)
}

// Probe implements node.Options.Disk.
func (p *Process) Probe(_ context.Context, device string, _ int64) (c filesystem.Content, err error) {
	err = p.step("Probe", func() error {
		return p.m.onDisk(device, func(x Medium) error { c, err = x.Probe(); return err })
	}, nil)
	return c, err
}

// AllZero implements node.Options.Disk.
func (p *Process) AllZero(_ context.Context, device string, _ int64) (zero bool, err error) {
	err = p.step("AllZero", func() error {
		return p.m.onDisk(device, func(x Medium) error { zero, err = x.AllZero(); return err })
	}, nil)
	return zero, err
}

// Format implements node.Options.Disk.
func (p *Process) Format(_ context.Context, device string, kind filesystem.Kind, _ []string) error {
	return p.step("Format",
		func() error { return p.m.onDisk(device, func(x Medium) error { return x.Format(kind) }) },
		func() error { return p.m.onDisk(device, func(x Medium) error { return x.Tear() }) })
}

// Check implements node.Options.Disk.
func (p *Process) Check(_ context.Context, device string, _ filesystem.Kind) error {
	return p.step("Check", func() error { return p.m.onDisk(device, func(x Medium) error { return x.Check() }) }, nil)
}

// Sync implements node.Options.Flusher.
func (p *Process) Sync(path string) error {
	return p.step("Sync", func() error { return p.m.sync(path) }, nil)
}

// FlushDevice implements node.Options.Flusher.
func (p *Process) FlushDevice(device string) error {
	return p.step("FlushDevice", func() error { return p.m.flushDevice(device) }, nil)
}

// SuperblockGone implements node.Options.Flusher.
func (p *Process) SuperblockGone(kind filesystem.Kind, disk string) (gone bool, err error) {
	err = p.step("SuperblockGone", func() error { gone = p.m.superblockGone(kind, disk); return nil }, nil)
	return gone, err
}

// Errors implements node.Options.Flusher.
func (p *Process) Errors(_ filesystem.Kind, disk, _ string) (n int, err error) {
	err = p.step("Errors", func() error { n = p.m.errorsOf(disk); return nil }, nil)
	return n, err
}

// Stat implements node.Options.Flusher.
func (p *Process) Stat(path string) (u filesystem.Usage, err error) {
	err = p.step("Stat", func() error { u, err = p.m.stat(path); return err }, nil)
	return u, err
}

// Authorities is a node.Options' Authorities: a call to the agent is a step too.
func (p *Process) Authorities(host string) (volume.FormatAuthority, error) {
	a, err := p.agent(host)
	return authority{p, a}, err
}

type authority struct {
	p *Process
	volume.FormatAuthority
}

func (a authority) Status(ctx context.Context, ref volume.PublicationRef) (st volume.PublicationStatus, err error) {
	err = a.p.step("Status", func() error { st, err = a.FormatAuthority.Status(ctx, ref); return err }, nil)
	return st, err
}

func (a authority) BeginFormat(ctx context.Context, ref volume.PublicationRef) error {
	return a.p.step("BeginFormat", func() error { return a.FormatAuthority.BeginFormat(ctx, ref) }, nil)
}

func (a authority) EndFormat(ctx context.Context, ref volume.PublicationRef) error {
	return a.p.step("EndFormat", func() error { return a.FormatAuthority.EndFormat(ctx, ref) }, nil)
}
