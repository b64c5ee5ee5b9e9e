//go:build linux

package vm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-csi/holdfast/test/vm/internal/guest"
	"github.com/holdfast-csi/holdfast/test/vm/internal/image"
	"github.com/holdfast-csi/holdfast/test/vm/internal/lan"
	"github.com/holdfast-csi/holdfast/test/vm/internal/qemu"
	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

// Lab is a set of machines on one kernel, with the switches between them. Its methods may be called at the same time.
type Lab struct {
	cfg     LabConfig
	dir     string
	lock    *os.File // held while the lab lives, so that others do not take its directory for a leftover
	assets  *assets
	accel   string
	control net.Listener

	mu       sync.Mutex
	machines []*Machine             // guarded by mu
	lans     map[string]*lan.Switch // guarded by mu
	taps     []func()               // guarded by mu; unplug cards of this machine
	closed   bool                   // guarded by mu
}

// NewLab prepares kernel and root file system and boots nothing. The first call on a machine downloads and builds, which
// takes half a minute; later ones take about a second.
func NewLab(ctx context.Context, cfg LabConfig) (*Lab, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	root, err := repoRoot()
	if err != nil {
		return nil, err
	}
	start, cache := time.Now(), cacheDir(root)
	l := &Lab{cfg: cfg, lans: make(map[string]*lan.Switch)}
	if l.assets, err = prepare(ctx, root, cache, cfg); err != nil {
		return nil, fmt.Errorf("lab %s: %w", cfg.Name, err)
	}
	if l.dir, l.lock, err = makeLabDir(filepath.Join(root, "build", "vm"), cfg.Name); err != nil {
		return nil, fmt.Errorf("lab %s: %w", cfg.Name, err)
	}
	if err := l.start(ctx, cache); err != nil {
		return nil, errors.Join(fmt.Errorf("lab %s: %w", cfg.Name, err), l.Close())
	}
	cfg.Log("lab %s: kernel %s, %s, prepared in %.1f s", cfg.Name, l.KernelVersion(), l.accel, time.Since(start).Seconds())
	return l, nil
}

// start chooses the accelerator and opens the control channel.
func (l *Lab) start(ctx context.Context, cache string) error {
	probe, err := l.probeInitrd()
	if err != nil {
		return err
	}
	if l.accel, err = qemu.Accel(ctx, cache, l.assets.image, probe, guest.ProbeLine); err != nil {
		return err
	}
	var lc net.ListenConfig
	if l.control, err = lc.Listen(ctx, "tcp4", "127.0.0.1:0"); err != nil {
		return fmt.Errorf("control channel: %w", err)
	}
	go l.accept()
	return nil
}

// probeInitrd is a root with an init that finds no configuration, says so and switches off.
func (l *Lab) probeInitrd() (string, error) {
	a := &image.Archive{}
	a.Dir("/dev", 0o755)
	a.File(l.assets.guestd, "/init", 0o755)
	path := filepath.Join(l.dir, "probe.cpio")
	return path, writeArchive(path, a)
}

// accept hands connections of machines to those machines, until the listener is closed.
func (l *Lab) accept() {
	for {
		raw, err := l.control.Accept()
		if err != nil {
			return
		}
		go l.greet(raw)
	}
}

func (l *Lab) greet(raw net.Conn) {
	conn := wire.NewConn(raw)
	var hello wire.Hello
	_ = raw.SetReadDeadline(time.Now().Add(helloTimeout)) // fails only on a closed connection, and so does the next line
	if err := conn.ReadLine(&hello); err != nil {
		conn.Close()
		return
	}
	_ = raw.SetReadDeadline(time.Time{})
	l.mu.Lock()
	machines := slices.Clone(l.machines)
	l.mu.Unlock()
	for _, m := range machines {
		if m.park(hello.Token, &channel{Conn: conn, raw: raw}) {
			return
		}
	}
	conn.Close() // of a boot that is over
}

// Add declares a machine; it does not boot it.
func (l *Lab) Add(cfg MachineConfig) (*Machine, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("add machine %s: lab %s is closed", cfg.Name, l.cfg.Name)
	}
	cfg, err := cfg.withDefaults(len(l.machines))
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(l.machines, func(m *Machine) bool { return m.cfg.Name == cfg.Name }) {
		return nil, fmt.Errorf("machine %s: there is one of that name already", cfg.Name)
	}
	m, err := newMachine(l, len(l.machines), cfg)
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", cfg.Name, err)
	}
	for i, a := range cfg.LANs {
		m.nics = append(m.nics, newNIC(m, i, a, l.lockedLAN(a.LAN).AddPort()))
	}
	l.machines = append(l.machines, m)
	return m, nil
}

func (l *Lab) lockedLAN(name string) *lan.Switch {
	if l.lans[name] == nil {
		l.lans[name] = lan.New()
	}
	return l.lans[name]
}

// hosts lists the machines for /etc/hosts.
func (l *Lab) hosts() []wire.Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	var hosts []wire.Host
	for _, m := range l.machines {
		for _, nic := range m.nics {
			hosts = append(hosts, wire.Host{Name: m.cfg.Name, Addr: nic.addr.Addr().String()})
		}
	}
	return hosts
}

// Boot boots machines at the same time and returns when all are ready or one has failed.
func (l *Lab) Boot(ctx context.Context, machines ...*Machine) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range machines {
		g.Go(func() error { return m.Boot(ctx) })
	}
	return g.Wait()
}

// Close cuts the power of all machines and removes the lab's directory, unless HOLDFAST_VM_KEEP=1.
func (l *Lab) Close() error {
	l.mu.Lock()
	machines, taps, closed := slices.Clone(l.machines), l.taps, l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		return nil
	}
	var errs []error
	for _, m := range machines {
		errs = append(errs, m.close())
	}
	for _, unplug := range taps {
		unplug()
	}
	if l.control != nil {
		errs = append(errs, l.control.Close())
	}
	if os.Getenv("HOLDFAST_VM_KEEP") == "1" {
		l.cfg.Log("lab %s: kept %s", l.cfg.Name, l.dir)
	} else {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(append(errs, l.lock.Close())...)
}

// Accel returns "tcg" (emulated, slow) or "kvm".
func (l *Lab) Accel() string { return l.accel }

// KernelVersion returns what uname -r says in the machines.
func (l *Lab) KernelVersion() string { return l.assets.kernel.Release }

// Dir is where consoles and disks are while the lab lives.
func (l *Lab) Dir() string { return l.dir }

func newToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	return hex.EncodeToString(b[:])
}
