//go:build linux

package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

const (
	helloTimeout    = 10 * time.Second
	bootTimeout     = 2 * time.Minute // under emulation on a busy machine
	shutdownTimeout = 30 * time.Second
	consoleTail     = 4 << 10
)

// Machine is a virtual machine of a lab. It keeps its disk, addresses and forwarded ports from boot to boot.
type Machine struct {
	lab      *Lab
	number   int
	cfg      MachineConfig
	dir      string
	nics     []*NIC
	forwards map[int]net.Listener

	mu      sync.Mutex
	session *session // guarded by mu; nil when switched off
	booting bool     // guarded by mu
	disk    disk     // guarded by mu; nil until the first boot, and without a disk
}

func newMachine(l *Lab, number int, cfg MachineConfig) (*Machine, error) {
	m := &Machine{
		lab: l, number: number, cfg: cfg,
		dir: filepath.Join(l.dir, cfg.Name), forwards: make(map[int]net.Listener),
	}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return nil, err
	}
	for _, port := range cfg.Forward {
		if err := m.forward(port); err != nil {
			return nil, errors.Join(err, m.close())
		}
	}
	return m, nil
}

// Name returns the name, which is the hostname too.
func (m *Machine) Name() string { return m.cfg.Name }

// Addr returns the address on the named LAN, or on the first one. It is invalid if there is none.
func (m *Machine) Addr(lan ...string) netip.Addr {
	for _, nic := range m.nics {
		if len(lan) == 0 || nic.lan == lan[0] {
			return nic.addr.Addr()
		}
	}
	return netip.Addr{}
}

// NIC returns the i-th network card, counted from 0, or nil.
func (m *Machine) NIC(i int) *NIC {
	if i < 0 || i >= len(m.nics) {
		return nil
	}
	return m.nics[i]
}

// machineID is fixed by the names, so that it survives reboots and differs between machines.
func (m *Machine) machineID() string {
	sum := sha256.Sum256([]byte(m.lab.dir + "/" + m.cfg.Name))
	return hex.EncodeToString(sum[:16])
}

// Running tells whether the machine has power.
func (m *Machine) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.session != nil && m.session.running()
}

// Boot switches the machine on and waits until it is ready for requests.
func (m *Machine) Boot(ctx context.Context) error {
	if err := m.claim(); err != nil {
		return err
	}
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("not ready after %s", bootTimeout))
	defer cancel()
	s, err := m.powerOn(ctx)
	if err == nil {
		if err = s.waitReady(ctx); err != nil {
			s.end()
		}
	}
	m.mu.Lock()
	m.booting = false
	d := m.disk
	if err != nil {
		m.session = nil
	}
	m.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("boot machine %s: %w\n%s", m.cfg.Name, err, m.Console())
		if d != nil {
			err = errors.Join(err, d.powerCut())
		}
		return err
	}
	m.lab.cfg.Log("machine %s: ready after %.1f s", m.cfg.Name, time.Since(start).Seconds())
	return nil
}

// claim makes sure that a machine is switched on once at a time.
func (m *Machine) claim() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.booting || (m.session != nil && m.session.running()) {
		return fmt.Errorf("boot machine %s: it is on already", m.cfg.Name)
	}
	m.booting = true
	return nil
}

// PowerCut ends the machine as a pulled plug does. With VolatileDisk, what was not flushed to the disk may be lost.
func (m *Machine) PowerCut() error {
	m.mu.Lock()
	s, d := m.session, m.disk
	m.session = nil
	m.mu.Unlock()
	if s == nil {
		return nil
	}
	s.end()
	m.lab.cfg.Log("machine %s: power cut", m.cfg.Name)
	if d == nil {
		return nil
	}
	return d.powerCut()
}

// Shutdown ends the machine in order: programs are asked to end, the disk is unmounted. A machine that has not gone off
// when ctx or half a minute is over loses its power, which is reported.
func (m *Machine) Shutdown(ctx context.Context) error {
	s, err := m.current()
	if err != nil {
		return nil //nolint:nilerr // it is off already
	}
	ctx, cancel := context.WithTimeoutCause(ctx, shutdownTimeout, fmt.Errorf("not off after %s", shutdownTimeout))
	defer cancel()
	_, err = m.simple(ctx, wire.Request{Op: wire.OpPowerOff})
	if err == nil {
		select {
		case <-s.qemu.Done():
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		err = fmt.Errorf("shut down machine %s: %w\n%s", m.cfg.Name, err, m.Console())
	}
	return errors.Join(err, m.PowerCut())
}

func (m *Machine) close() error {
	errs := []error{m.PowerCut()}
	for _, l := range m.forwards {
		errs = append(errs, l.Close())
	}
	m.mu.Lock()
	d := m.disk
	m.disk = nil
	m.mu.Unlock()
	if d != nil {
		errs = append(errs, d.close())
	}
	return errors.Join(errs...)
}

func (m *Machine) consolePath() string { return filepath.Join(m.dir, "console.log") }

// Console returns the end of the serial console's log, which goes on over reboots.
func (m *Machine) Console() string {
	f, err := os.Open(m.consolePath())
	if err != nil {
		return "(no console: " + err.Error() + ")"
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "(no console: " + err.Error() + ")"
	}
	buf := make([]byte, min(info.Size(), consoleTail))
	n, _ := f.ReadAt(buf, info.Size()-int64(len(buf))) // shorter is fine
	return fmt.Sprintf("--- console of %s ---\n%s", m.cfg.Name, strings.TrimSpace(string(buf[:n])))
}
