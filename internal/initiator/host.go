package initiator

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

// Options are what a Host is made of.
type Options struct {
	FS        nvmesysfs.FS
	Connector Connector // nil is NewFabrics(FS)
	// Probe says whether a portal answers at all; nil is a TCP dial of at most
	// a second. It goes first because one kernel mutex serialises connects: a
	// black hole would delay every other connect of the node by 3 s.
	Probe func(ctx context.Context, portal netip.AddrPort) error
	// HostNQN is who this node is. If it is set, Disconnect leaves controllers
	// of other host NQNs alone.
	HostNQN string
	// Owners is told of the controllers that are ours; may be nil.
	Owners Owners
	// Patience shortens the kernel's for as long as it connects or deletes; may be
	// nil.
	Patience Patience
}

// Patience is how long the kernel waits for an answer; *patience.Limit is the
// real one.
type Patience interface {
	// Hold keeps it short until release.
	Hold() (release func())
}

// Owners is where other tools of the machine find out whose a controller is;
// *ownership.Registry is the real one. It reports no failure: no session depends
// on it.
type Owners interface {
	// Claim is for a controller that was just made.
	Claim(controller string)
	// Keep is for those that are there: look says of each whether it is ours.
	Keep(look func() (map[string]bool, error))
}

// Host makes and unmakes sessions on this machine. There should be one of it:
// its locks are what serialises a session.
type Host struct {
	fs        nvmesysfs.FS
	connector Connector
	probe     func(context.Context, netip.AddrPort) error
	hostNQN   string
	owners    Owners
	patience  Patience

	// sessions serialises what changes a session, by subsystem NQN.
	sessions sessionLocks
	// connecting serialises connects, as the kernel's nvmf_dev_mutex would
	// anyway; but waiting here ends with the context.
	connecting mutex

	mu       sync.Mutex
	deleting map[string]chan struct{} // controllers whose deletion has not returned; closed when it has; guarded by mu
	refused  map[string]error         // why the last deletion of a controller failed; guarded by mu
}

// New returns a Host.
func New(o Options) *Host {
	h := &Host{
		fs: o.FS, connector: o.Connector, probe: o.Probe, hostNQN: o.HostNQN, owners: o.Owners, patience: o.Patience,
		sessions: sessionLocks{byID: map[string]*sessionLock{}}, connecting: newMutex(),
		deleting: map[string]chan struct{}{}, refused: map[string]error{},
	}
	if h.connector == nil {
		h.connector = NewFabrics(o.FS)
	}
	if h.probe == nil {
		h.probe = probeTCP
	}
	return h
}

// hurry keeps the kernel's patience short until release.
func (h *Host) hurry() (release func()) {
	if h.patience == nil {
		return func() {}
	}
	return h.patience.Hold()
}

// Live says whether a controller of the subsystem is live.
func (h *Host) Live(nqn string) (bool, error) {
	controllers, err := h.fs.ControllersOf(nqn)
	if err != nil {
		return false, fmt.Errorf("session %s: %w", nqn, err)
	}
	for _, c := range controllers {
		if c.Live() {
			return true, nil
		}
	}
	return false, nil
}

const probeTime = time.Second

func probeTCP(ctx context.Context, portal netip.AddrPort) error {
	d := net.Dialer{Timeout: probeTime}
	c, err := d.DialContext(ctx, "tcp", portal.String())
	if err != nil {
		return err
	}
	return c.Close()
}

// Sysfs announces nothing that could be waited for, so it is read again, soon
// at first: most things happen within milliseconds.
const (
	pollMin = 5 * time.Millisecond
	pollMax = 50 * time.Millisecond
)
