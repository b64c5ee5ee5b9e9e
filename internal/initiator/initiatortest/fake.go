package initiatortest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

// Fake is a machine without a kernel. Its methods may be called at any time
// from any goroutine; what they change is in sysfs when they return. It starts
// no goroutine and uses no clock but that of package time, so that it works
// inside a testing/synctest bubble.
type Fake struct {
	fs nvmesysfs.FS

	mu          sync.Mutex
	portals     map[netip.AddrPort]PortalState
	targets     map[string]*target     // by NQN
	controllers map[string]*controller // by name
	disks       map[string]*disk       // by name
	closed      bool                   // the test is over and its directory going
	missEvents  bool
	connects    int
	connecting  int
	maxParallel int
	nextMinor   uint32
}

// PortalState is what a portal does with a connection.
type PortalState int

// The states of a portal. One that was never named is Closed.
const (
	Closed PortalState = iota // refuses
	Up                        // answers
	Silent                    // drops everything: ETIMEDOUT after 3 s
	Hung                      // accepts, and says nothing: EAGAIN after 10 s
)

// The times that the kernel takes to give up (measured, Linux 6.1 and 6.12).
const (
	silentTime = 3 * time.Second
	hungTime   = 10 * time.Second
)

// Namespace is one namespace of a fake target.
type Namespace struct {
	NSID        uint32
	UUID, NGUID uuid.UUID
	SizeBytes   int64 // 0 is 1 GiB
	BlockSize   int   // 0 is 4096
}

type target struct {
	portals    []netip.AddrPort
	namespaces map[uint32]Namespace
	hosts      map[string]bool // nil allows every host
}

var _ initiator.Connector = (*Fake)(nil)

// New returns a machine with native multipath that can reach nothing yet.
func New(t testing.TB) *Fake {
	t.Helper()
	root := t.TempDir()
	f := &Fake{
		portals: map[netip.AddrPort]PortalState{}, targets: map[string]*target{},
		controllers: map[string]*controller{}, disks: map[string]*disk{},
	}
	t.Cleanup(func() { // before that of TempDir: what is under way finishes, and nothing begins
		f.mu.Lock()
		defer f.mu.Unlock()
		f.closed = true
	})
	f.fs = nvmesysfs.FS{Sys: filepath.Join(root, "sys"), Dev: filepath.Join(root, "dev")}.WithStat(f.stat).WithControl(f.control)
	for _, dir := range []string{f.fs.Dev, f.sys("class/nvme"), f.sys("class/nvme-subsystem"), f.sys("class/block"), f.sys("module/nvme_core/parameters")} {
		must(os.MkdirAll(dir, 0o755))
	}
	must(os.WriteFile(f.sys("module/nvme_core/parameters/multipath"), []byte("Y\n"), 0o600))
	return f
}

// FS is where the machine's sysfs and device nodes are.
func (f *Fake) FS() nvmesysfs.FS { return f.fs }

// Host returns an initiator of this machine.
func (f *Fake) Host() *initiator.Host {
	return initiator.New(initiator.Options{FS: f.fs, Connector: f, Probe: f.Probe})
}

// AddSubsystem makes a subsystem that can be reached at portals, which come up
// unless SetPortal named them before.
func (f *Fake) AddSubsystem(nqn string, portals ...netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.targets[nqn] = &target{portals: portals, namespaces: map[uint32]Namespace{}}
	for _, p := range portals {
		if _, ok := f.portals[p]; !ok {
			f.portals[p] = Up
		}
	}
}

// RemoveSubsystem takes a subsystem away while its portals go on listening.
// Live controllers lose their connection, and their reconnect is answered with
// Do-Not-Retry: Linux 6.10 and later delete them at once.
func (f *Fake) RemoveSubsystem(nqn string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.targets, nqn)
	for _, c := range f.of(nqn) {
		f.reconnect(c)
	}
}

// AllowHosts restricts a subsystem to these host NQNs. Existing sessions stay.
func (f *Fake) AllowHosts(nqn string, hostNQNs ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hosts := map[string]bool{}
	for _, h := range hostNQNs {
		hosts[h] = true
	}
	f.targets[nqn].hosts = hosts
}

// AddNamespace makes a namespace, or changes the one with the same NSID. Live
// sessions see it at once unless MissEvents is on.
func (f *Fake) AddNamespace(nqn string, ns Namespace) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ns.SizeBytes == 0 {
		ns.SizeBytes = 1 << 30
	}
	if ns.BlockSize == 0 {
		ns.BlockSize = 4096
	}
	f.targets[nqn].namespaces[ns.NSID] = ns
	f.event(nqn)
}

// RemoveNamespace withdraws a namespace.
func (f *Fake) RemoveNamespace(nqn string, nsid uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.targets[nqn].namespaces, nsid)
	f.event(nqn)
}

// MissEvents makes the machine deaf to changes of namespaces: only a rescan or a
// reconnect shows them.
func (f *Fake) MissEvents(miss bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.missEvents = miss
}

// SetPortal changes what a portal does. Controllers on a portal that stops
// answering are "connecting" from then on; when it is Up again they go live, or
// are deleted if the subsystem is gone or does not allow them.
func (f *Fake) SetPortal(portal netip.AddrPort, state PortalState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.portals[portal] = state
	for _, c := range f.controllers {
		if c.portal != portal {
			continue
		}
		if state == Up {
			f.reconnect(c)
		} else {
			f.setState(c, "connecting")
		}
	}
}

// DeleteController removes a controller as an administrator would.
func (f *Fake) DeleteController(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.controllers[name]; c != nil {
		f.remove(c)
	}
}

// Connects is how often Connect was called, and how many calls there were at
// the same time at most.
func (f *Fake) Connects() (calls, parallel int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.connects, f.maxParallel
}

// Probe is for initiator.Options.
func (f *Fake) Probe(ctx context.Context, portal netip.AddrPort) error {
	f.mu.Lock()
	state := f.portals[portal]
	f.mu.Unlock()
	switch state {
	case Up, Hung:
		return nil
	case Silent:
		return pause(ctx, time.Second, os.ErrDeadlineExceeded)
	case Closed:
	}
	return fmt.Errorf("dial %s: %w", portal, syscall.ECONNREFUSED)
}

// pause waits for d and returns err, or that of ctx if it ends first.
func pause(ctx context.Context, d time.Duration, err error) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
