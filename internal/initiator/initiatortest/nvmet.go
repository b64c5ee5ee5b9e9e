//go:build linux

package initiatortest

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

// Nvmet is a target in this kernel, on local addresses. It needs root, the
// modules nvmet-tcp and nvme-tcp, and a machine that may be broken: a virtual
// one. Anything that goes wrong fails the test.
type Nvmet struct {
	t     testing.TB
	links map[netip.AddrPort][]string // subsystems of a port
}

var _ Rig = (*Nvmet)(nil)

const nvmetRoot = "/sys/kernel/config/nvmet"

// NewNvmet returns an empty target. What is made with it goes when t ends.
func NewNvmet(t testing.TB) *Nvmet {
	t.Helper()
	if _, err := os.Stat(nvmetRoot); err != nil {
		_ = unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, "")
	}
	if _, err := os.Stat(nvmetRoot); err != nil {
		t.Fatalf("%v: run this in a virtual machine (test/vm/README.md)", err)
	}
	return &Nvmet{t: t, links: map[netip.AddrPort][]string{}}
}

// Options are those of a Host on this kernel.
func (n *Nvmet) Options() initiator.Options { return initiator.Options{FS: nvmesysfs.Default()} }

func (n *Nvmet) check(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *Nvmet) mkdir(path string) {
	n.t.Helper()
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return
	}
	n.check(err)
	n.t.Cleanup(func() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			n.t.Error(err)
		}
	})
}

func (n *Nvmet) set(path, value string) {
	n.t.Helper()
	n.check(os.WriteFile(path, []byte(value), 0))
}

func subsystemPath(nqn string) string { return filepath.Join(nvmetRoot, "subsystems", nqn) }

func portPath(p netip.AddrPort) string {
	return filepath.Join(nvmetRoot, "ports", strconv.Itoa(int(p.Port())))
}

// AddSubsystem makes a subsystem that any host may connect to.
func (n *Nvmet) AddSubsystem(nqn string, portals ...netip.AddrPort) {
	n.t.Helper()
	n.mkdir(subsystemPath(nqn))
	n.set(subsystemPath(nqn)+"/attr_allow_any_host", "1")
	n.set(subsystemPath(nqn)+"/attr_serial", "holdfast-test")
	for _, p := range portals {
		n.Listen(p)
		n.links[p] = append(n.links[p], nqn)
		n.link(p, nqn)
	}
}

// Listen makes a port, which listens as soon as it has a subsystem.
func (n *Nvmet) Listen(p netip.AddrPort) {
	n.t.Helper()
	if _, ok := n.links[p]; ok {
		return
	}
	dir := portPath(p)
	n.mkdir(dir)
	family := "ipv4"
	if p.Addr().Is6() {
		family = "ipv6"
	}
	for _, a := range [][2]string{
		{"addr_trtype", "tcp"}, {"addr_adrfam", family}, {"addr_traddr", p.Addr().String()},
		{"addr_trsvcid", strconv.Itoa(int(p.Port()))},
	} {
		n.set(filepath.Join(dir, a[0]), a[1])
	}
	n.links[p] = nil
}

func (n *Nvmet) link(p netip.AddrPort, nqn string) {
	n.t.Helper()
	at := filepath.Join(portPath(p), "subsystems", nqn)
	n.check(os.Symlink(subsystemPath(nqn), at))
	n.t.Cleanup(func() { _ = os.Remove(at) })
}

// SetPortal links or unlinks all subsystems of a port: without any it is closed.
func (n *Nvmet) SetPortal(p netip.AddrPort, state PortalState) {
	n.t.Helper()
	for _, nqn := range n.links[p] {
		switch state {
		case Up:
			n.link(p, nqn)
		case Closed:
			n.check(os.Remove(filepath.Join(portPath(p), "subsystems", nqn)))
		case Silent, Hung:
			n.t.Fatalf("portal state %d: not on a kernel", state)
		}
	}
}

// AddNamespace makes a namespace on a file, or grows the one with that NSID.
func (n *Nvmet) AddNamespace(nqn string, ns Namespace) {
	n.t.Helper()
	dir := filepath.Join(subsystemPath(nqn), "namespaces", strconv.FormatUint(uint64(ns.NSID), 10))
	if path, err := os.ReadFile(dir + "/device_path"); err == nil {
		n.check(os.Truncate(string(path[:len(path)-1]), ns.SizeBytes))
		n.set(dir+"/revalidate_size", "1")
		return
	}
	file := filepath.Join(n.t.TempDir(), "disk")
	n.check(os.WriteFile(file, nil, 0o600))
	n.check(os.Truncate(file, ns.SizeBytes))
	n.mkdir(dir)
	n.set(dir+"/device_path", file)
	n.set(dir+"/buffered_io", "1") // the root of the machine is in memory: no O_DIRECT before 6.6
	n.set(dir+"/device_uuid", ns.UUID.String())
	n.set(dir+"/device_nguid", ns.NGUID.String())
	n.set(dir+"/enable", "1")
	n.t.Cleanup(func() { _ = os.WriteFile(dir+"/enable", []byte("0"), 0) })
}

// RemoveNamespace withdraws a namespace.
func (n *Nvmet) RemoveNamespace(nqn string, nsid uint32) {
	n.t.Helper()
	n.check(os.Remove(filepath.Join(subsystemPath(nqn), "namespaces", strconv.FormatUint(uint64(nsid), 10))))
}
