package nodetest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

// major is the device number of the kernel's extended block devices.
const major = 259

// Machine is one node's kernel. Its methods may be called at any time.
type Machine struct {
	target Target

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change
	off      chan struct{} // closed at the end of the test
	stubborn bool
	sessions map[string]*link // by NQN
	disks    map[string]*disk // by name; also deleted ones that a file system or a table holds
	tables   map[string]*table
	deletes  bool // the kernel cannot keep a disk that has lost its last path
	mounts   []mounted
	supers   map[string]*super // by the name of the disk
	busy     map[string]bool   // paths that something holds open
	refusing map[string]error  // by NQN: how a connect fails
	lost     []string
	ended    map[string]int          // by NQN: how often Disconnect took it down
	dark     map[netip.AddrPort]bool // nothing answers there
	limited  map[string]bool         // by NQN: the kernel gives it up when it is away
}

type link struct {
	initiator.Session
	number int    // nvmeN, of the first controller
	state  string // live or connecting
	cut    bool
	silent bool   // live as far as the kernel knows, and nothing comes back
	paths  []path // its controllers
}

type disk struct {
	name         string
	major, minor uint32
	nqn          string
	ns           Namespace
	gone         bool
	open         bool   // something that is no mount has it open
	kept         int    // seconds for which it would outlive its last path
	flying       int    // I/O that was sent and has not come back
	dirty        string // written to the device node and not flushed
	table        *table // of dm-N; its I/O goes to the disk below
}

// super is the superblock of a mounted file system.
type super struct {
	kind  filesystem.Kind
	disk  *disk
	dirty string
	// errors it has met since it was made; one that has met any takes nothing more.
	errors int
}

// mounted is a mount; super is nil for a bind of a device node or a directory
// of the root file system.
type mounted struct {
	filesystem.Mount
	super *super
}

// errOff is what hangs in the machine gets at the end of the test.
var errOff = errors.New("the machine was turned off")

// New returns a machine that reaches target. It is turned off with the test at
// the latest.
func New(t testing.TB, target Target) *Machine {
	m := &Machine{target: target, off: make(chan struct{}), ended: map[string]int{}, refusing: map[string]error{}, dark: map[netip.AddrPort]bool{}, limited: map[string]bool{}}
	m.reset()
	t.Cleanup(m.Off)
	return m
}

func (m *Machine) reset() {
	m.sessions, m.disks, m.supers = map[string]*link{}, map[string]*disk{}, map[string]*super{}
	m.mounts, m.busy, m.tables = nil, map[string]bool{}, map[string]*table{}
	if m.changed != nil {
		close(m.changed)
	}
	m.changed = make(chan struct{})
}

// Off ends everything that hangs. It may be called again.
func (m *Machine) Off() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.off:
	default:
		close(m.off)
	}
}

// Reboot forgets everything that is in the kernel.
func (m *Machine) Reboot() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reset()
}

// SetStubborn makes the kernel one before Linux 6.10: it goes on connecting to
// a subsystem that is no longer there instead of giving up.
func (m *Machine) SetStubborn() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stubborn = true
}

// SetDeletes makes the kernel one that deletes a disk with its last path, and
// can do nothing else.
func (m *Machine) SetDeletes() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deletes = true
}

// Silence makes nothing come back of a session, which the kernel does not notice
// before Cut: the keep-alive.
func (m *Machine) Silence(nqn string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sessions[nqn].silent = true
	m.notify()
}

// Cut loses the path of a session: it is "connecting" until Heal.
func (m *Machine) Cut(nqn string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.sessions[nqn]; s != nil {
		s.cut, s.silent, s.state = true, false, "connecting"
	}
	if m.limited[nqn] {
		m.end(nqn)
	}
	m.notify()
}

// Heal brings the path back.
func (m *Machine) Heal(nqn string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.sessions[nqn]; s != nil {
		s.cut = false
	}
	m.refresh()
	m.notify()
}

// Vanish makes the kernel give a session up: its devices are deleted.
func (m *Machine) Vanish(nqn string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end(nqn)
	m.notify()
}

// RefuseConnect makes connects to a subsystem fail at once with err.
func (m *Machine) RefuseConnect(nqn string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusing[nqn] = err
}

// SetBusy makes unmounts of path fail while busy.
func (m *Machine) SetBusy(path string, busy bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.busy[path] = busy
}

// Sessions returns the NQNs that are connected, sorted.
func (m *Machine) Sessions() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refresh()
	return slices.Sorted(maps.Keys(m.sessions))
}

// Ended is how often Disconnect took a session down.
func (m *Machine) Ended(nqn string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ended[nqn]
}

// Kept returns the disks that would outlive their last path, sorted.
func (m *Machine) Kept() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, d := range m.disks {
		if d.kept > 0 {
			out = append(out, d.name)
		}
	}
	slices.Sort(out)
	return out
}

// Lost is what was written and never reached its device.
func (m *Machine) Lost() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.lost, "")
}

// Supers returns the disks with a live superblock, sorted.
func (m *Machine) Supers() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.supers))
}

// Mounted returns "PATH KIND DISK MODE" for every mount, in the order in which
// they were made.
func (m *Machine) Mounted() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, x := range m.mounts {
		name := x.Root
		if x.super != nil {
			name = x.super.disk.name
		}
		out = append(out, fmt.Sprintf("%s %s %s %s", x.Path, x.FSType, name, x.Options[0]))
	}
	return out
}

// Session is what sysfs says (node.Options.Sysfs).
func (m *Machine) session(nqn string) nvmesysfs.Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refresh()
	return m.snapshot(nqn)
}

func (m *Machine) diskNamed(name string) (nvmesysfs.Namespace, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refresh()
	for nqn := range m.sessions {
		for _, ns := range m.snapshot(nqn).Namespaces {
			if ns.Disk == name {
				return ns, nil
			}
		}
	}
	return nvmesysfs.Namespace{}, fmt.Errorf("disk %s: %w", name, fs.ErrNotExist)
}

func (m *Machine) snapshot(nqn string) nvmesysfs.Snapshot {
	var out nvmesysfs.Snapshot
	s := m.sessions[nqn]
	if s == nil {
		return out
	}
	var names []string
	for _, p := range s.paths {
		state := s.state
		if m.dark[p.portal] {
			state = "connecting"
		}
		names = append(names, p.name)
		out.Controllers = append(out.Controllers, nvmesysfs.Controller{
			Name: p.name, NQN: nqn, State: state, Transport: "tcp", Traddr: p.portal.Addr().String(), Trsvcid: strconv.Itoa(int(p.portal.Port())),
			HostNQN: s.HostNQN, HostID: s.HostID,
		})
	}
	for _, d := range slices.SortedFunc(maps.Values(m.disks), func(a, b *disk) int { return strings.Compare(a.name, b.name) }) {
		if d.nqn == nqn && !d.gone {
			out.Namespaces = append(out.Namespaces, nvmesysfs.Namespace{
				Disk: d.name, NQN: nqn, NSID: d.ns.NSID, UUID: d.ns.UUID, NGUID: d.ns.NGUID, SizeBytes: d.ns.SizeBytes,
				BlockSize: d.ns.BlockSize, Major: d.major, Minor: d.minor, Controllers: names,
			})
		}
	}
	return out
}

// notify, refresh and the rest below must be called with mu held.
func (m *Machine) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// refresh makes the sessions show what the target has now.
func (m *Machine) refresh() {
	for nqn, s := range m.sessions {
		if s.cut {
			continue
		}
		list, ok := m.target.Visible(nqn, s.HostNQN)
		switch {
		case !m.lit(s):
			s.state = "connecting"
		case ok:
			s.state = "live"
			m.show(s, list)
		case m.stubborn:
			s.state = "connecting"
		default:
			m.end(nqn)
		}
	}
}

// show adds and deletes disks until they are those of list.
func (m *Machine) show(s *link, list []Namespace) {
	slices.SortFunc(list, func(a, b Namespace) int { return int(a.NSID) - int(b.NSID) })
	same := func(d *disk) bool {
		return slices.ContainsFunc(list, func(ns Namespace) bool {
			return ns.NSID == d.ns.NSID && ns.UUID == d.ns.UUID && ns.NGUID == d.ns.NGUID
		})
	}
	have := map[uint32]bool{}
	for _, d := range m.disks {
		if d.nqn == s.NQN && !d.gone {
			if have[d.ns.NSID] = same(d); !have[d.ns.NSID] {
				m.remove(d)
			}
		}
	}
	for _, ns := range list {
		if have[ns.NSID] {
			continue
		}
		d := &disk{major: major, nqn: s.NQN, ns: ns}
		for i := 1; d.name == ""; i++ {
			if name := fmt.Sprintf("nvme%dn%d", s.number, i); m.disks[name] == nil {
				d.name = name
			}
		}
		for d.minor == 0 || m.minorUsed(d.minor) {
			d.minor++
		}
		m.disks[d.name] = d
	}
}

func (m *Machine) minorUsed(minor uint32) bool {
	for _, d := range m.disks {
		if d.major == major && d.minor == minor {
			return true
		}
	}
	return false
}

// remove deletes a disk as the kernel does: what was not written is lost, and a
// file system on it lives on without it. A table above it keeps what was not
// written, unless it was given up.
func (m *Machine) remove(d *disk) {
	d.gone = true
	m.failIfDead(d)
	for _, t := range m.above(d) {
		m.failIfDead(t.device)
	}
	m.forget(d)
	for i := range m.mounts {
		if m.mounts[i].Root == "/"+d.name {
			m.mounts[i].Root += "//deleted"
		}
	}
}

// forget frees the name and the number of a disk once it is deleted and nothing
// holds it any more.
func (m *Machine) forget(d *disk) {
	if d.gone && m.supers[d.name] == nil && len(m.above(d)) == 0 {
		delete(m.disks, d.name)
	}
}

func (m *Machine) lose(dirty *string) {
	if *dirty != "" {
		m.lost = append(m.lost, *dirty)
		*dirty = ""
	}
}

func (m *Machine) end(nqn string) {
	delete(m.sessions, nqn)
	for _, d := range m.disks {
		if d.nqn == nqn && !d.gone {
			m.remove(d)
		}
	}
}
