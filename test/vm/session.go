//go:build linux

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/holdfast-csi/holdfast/test/vm/internal/image"
	"github.com/holdfast-csi/holdfast/test/vm/internal/qemu"
	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

// maxParked bounds the connections that wait for requests; a machine offers four.
const maxParked = 16

// hostFromGuest is this machine's loopback as QEMU's user-mode network shows it to the guest.
const hostFromGuest = "10.0.2.2"

// channel is a connection that a machine has offered for a request.
type channel struct {
	*wire.Conn
	raw net.Conn
}

// hypervisor is the running QEMU; tests have another.
type hypervisor interface {
	Done() <-chan struct{} // closed when it has ended
	Kill()                 // returns when it has ended
	Stderr() string
	SetLink(ctx context.Context, nic string, up bool) error
	Continue(ctx context.Context) error
}

// session is one boot of a machine.
type session struct {
	token  string
	qemu   hypervisor
	nics   []*NIC
	parked chan *channel
}

// powerOn starts QEMU and makes the session current.
func (m *Machine) powerOn(ctx context.Context) (*session, error) {
	d, err := m.openDisk()
	if err != nil {
		return nil, err
	}
	s := &session{token: newToken(), nics: m.nics, parked: make(chan *channel, maxParked)}
	initrd, err := m.writeInitrd(s.token, d)
	if err != nil {
		return nil, err
	}
	defer os.Remove(initrd) // QEMU has read it before its monitor answers
	console, err := os.OpenFile(m.consolePath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	cfg, err := m.qemuConfig(initrd, d)
	if err != nil {
		return nil, errors.Join(err, console.Close())
	}
	process, err := qemu.Start(ctx, cfg, console)
	if err != nil {
		return nil, errors.Join(err, console.Close())
	}
	s.qemu = process
	go func() {
		<-s.qemu.Done()
		console.Close()
	}()
	m.mu.Lock()
	m.session = s
	m.mu.Unlock()
	for _, nic := range m.nics {
		if nic.port.Unplugged() {
			if err := s.qemu.SetLink(ctx, nic.id, false); err != nil {
				s.end()
				return nil, err
			}
		}
	}
	if err := s.qemu.Continue(ctx); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

func (m *Machine) qemuConfig(initrd string, d disk) (qemu.Config, error) {
	cfg := qemu.Config{
		Name:  m.lab.cfg.Name + "-" + m.cfg.Name,
		Accel: m.lab.accel, CPUs: m.cfg.CPUs, MemoryMiB: m.cfg.MemoryMiB,
		Kernel: m.lab.assets.image, Initrd: initrd, Append: m.cfg.KernelArgs,
		MgmtMAC: m.mgmtMAC(), Paused: true,
	}
	for _, nic := range m.nics {
		ours, theirs, err := qemu.SocketPair(nic.id)
		if err != nil {
			return cfg, err
		}
		nic.port.Attach(ours)
		cfg.NICs = append(cfg.NICs, qemu.NIC{ID: nic.id, MAC: nic.mac, Cable: theirs})
	}
	if d == nil {
		return cfg, nil
	}
	var err error
	cfg.Disk, err = d.attach()
	return cfg, err
}

func (m *Machine) mgmtMAC() string { return fmt.Sprintf("52:54:00:ff:%02x:00", m.number) }

// writeInitrd joins the common archives and the machine's own.
func (m *Machine) writeInitrd(token string, d disk) (string, error) {
	own := &image.Archive{}
	own.File(m.lab.assets.guestd, "/init", 0o755)
	for _, f := range append(append([]File(nil), m.lab.cfg.Files...), m.cfg.Files...) {
		mode := f.Mode
		if mode == 0 {
			mode = 0o755
		}
		own.File(f.Host, image.MergedUsr(f.Guest), mode)
	}
	config, err := json.MarshalIndent(m.guestConfig(token, d), "", "\t")
	if err != nil {
		return "", fmt.Errorf("encode configuration: %w", err)
	}
	own.Bytes(wire.ConfigPath, config, 0o600)
	path := filepath.Join(m.dir, "initrd")
	out, err := os.Create(path)
	if err != nil {
		return "", err
	}
	for _, part := range []string{m.lab.assets.base, m.lab.assets.modules} {
		if err := appendFile(out, part); err != nil {
			return "", errors.Join(err, out.Close())
		}
	}
	return path, errors.Join(own.Write(out), out.Close())
}

// appendFile copies an archive to the end. Archives start at multiples of four bytes, which padding with zeroes ensures.
func appendFile(out *os.File, part string) error {
	in, err := os.Open(part)
	if err != nil {
		return err
	}
	defer in.Close()
	n, err := io.Copy(out, in)
	if err != nil {
		return fmt.Errorf("copy %s: %w", part, err)
	}
	_, err = out.Write(make([]byte, (4-n%4)%4))
	return err
}

func (m *Machine) guestConfig(token string, d disk) wire.Config {
	port := m.lab.control.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // a TCP listener has such an address
	cfg := wire.Config{
		Hostname: m.cfg.Name, MachineID: m.machineID(), Token: token,
		Control: net.JoinHostPort(hostFromGuest, strconv.Itoa(port)),
		Links:   []wire.Link{{MAC: m.mgmtMAC(), Name: "mgmt", Addr: "10.0.2.15/24"}},
		Hosts:   m.lab.hosts(),
	}
	cfg.Modules, cfg.Later = m.modules(d != nil)
	for i, nic := range m.nics {
		cfg.Links = append(cfg.Links, wire.Link{MAC: nic.mac, Name: "lan" + strconv.Itoa(i), Addr: nic.addr.String()})
	}
	if d != nil {
		cfg.Disk = &wire.Disk{Device: "/dev/vda", FS: m.cfg.DiskFS, Mount: "/data"}
	}
	return cfg
}

// modules returns the files to load before the machine is ready, and after.
func (m *Machine) modules(hasDisk bool) (first, later []string) {
	names, rest := m.cfg.Modules, []string(nil)
	if names == nil {
		names, rest = earlyModules(), neededModules()
	}
	names = append(bootModules(), names...)
	if hasDisk && m.cfg.DiskFS != "" {
		names = append(names, m.cfg.DiskFS)
	}
	release := m.lab.assets.kernel.Release
	for _, path := range m.lab.assets.index.Order(names, false) {
		first = append(first, image.GuestModulePath(release, path))
	}
	for _, path := range m.lab.assets.index.Order(rest, false) {
		if plain := image.GuestModulePath(release, path); !slices.Contains(first, plain) {
			later = append(later, plain)
		}
	}
	return first, later
}

func (s *session) running() bool {
	select {
	case <-s.qemu.Done():
		return false
	default:
		return true
	}
}

// waitReady returns when the machine has offered its first connection, which it does when all else is done.
func (s *session) waitReady(ctx context.Context) error {
	c, err := s.take(ctx)
	if err != nil {
		return err
	}
	s.parked <- c // there is room: it was just taken
	return nil
}

// take waits for a connection that the machine has offered.
func (s *session) take(ctx context.Context) (*channel, error) {
	select {
	case c := <-s.parked:
		return c, nil
	case <-s.qemu.Done():
		return nil, fmt.Errorf("it went off: %s", s.qemu.Stderr())
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// end takes the power away and drops what was connected.
func (s *session) end() {
	s.qemu.Kill()
	for _, nic := range s.nics {
		nic.port.Detach()
	}
	for {
		select {
		case c := <-s.parked:
			c.Close()
		default:
			return
		}
	}
}

// park keeps a connection if it belongs to the current boot.
func (m *Machine) park(token string, c *channel) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.session == nil || m.session.token != token {
		return false
	}
	select {
	case m.session.parked <- c:
		return true
	default:
		return false
	}
}

// current returns the running boot.
func (m *Machine) current() (*session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.session == nil {
		return nil, fmt.Errorf("machine %s is off", m.cfg.Name)
	}
	return m.session, nil
}
