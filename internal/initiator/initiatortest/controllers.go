package initiatortest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

type controller struct {
	name      string
	instance  int
	subsystem int // instance of the subsystem
	portal    netip.AddrPort
	target    nvme.Target
	config    nvme.ConnectionConfig
	state     string
}

type disk struct {
	name         string
	nqn          string
	subsystem    int
	head         int // index within the subsystem
	ns           Namespace
	major, minor uint32
	paths        map[string]bool // controllers
}

// Connect does what one write to /dev/nvme-fabrics does.
func (f *Fake) Connect(ctx context.Context, t nvme.Target, c nvme.ConnectionConfig) error {
	if err := t.Validate(); err != nil {
		return err
	}
	err := ctx.Err()
	if err == nil {
		err = f.connect(ctx, t, c)
	}
	if err != nil {
		return &initiator.ConnectError{Op: "connect", NQN: t.NQN, Addr: net.JoinHostPort(t.TargetAddress, strconv.Itoa(t.TargetPort)), Err: err}
	}
	return nil
}

func (f *Fake) connect(ctx context.Context, t nvme.Target, c nvme.ConnectionConfig) error {
	portal := netip.AddrPortFrom(netip.MustParseAddr(t.TargetAddress), uint16(t.TargetPort))
	f.mu.Lock()
	f.connects++
	f.connecting++
	f.maxParallel = max(f.maxParallel, f.connecting)
	state := f.portals[portal]
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.connecting--
	}()
	switch state {
	case Closed:
		return syscall.ECONNREFUSED
	case Silent:
		return pause(ctx, silentTime, syscall.ETIMEDOUT)
	case Hung:
		return pause(ctx, hungTime, syscall.EAGAIN)
	case Up:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.admit(t, c, portal)
}

// admit is the part of a connect that does not wait.
func (f *Fake) admit(t nvme.Target, c nvme.ConnectionConfig, portal netip.AddrPort) error {
	if f.closed {
		return syscall.ENODEV
	}
	for _, o := range f.controllers {
		same := o.target.HostNQN == t.HostNQN
		if same != (o.target.HostID == t.HostID) {
			return syscall.EINVAL // nvmf_host_add, Linux 6.12
		}
		if same && o.target.NQN == t.NQN && o.portal == portal {
			return syscall.EALREADY
		}
	}
	if !f.allowed(t, portal) {
		return syscall.EIO
	}
	ctl := &controller{instance: f.freeInstance(), portal: portal, target: t, config: c, state: "live"}
	ctl.name = fmt.Sprintf("nvme%d", ctl.instance)
	ctl.subsystem = ctl.instance
	for _, o := range f.of(t.NQN) {
		ctl.subsystem = o.subsystem
	}
	f.controllers[ctl.name] = ctl
	f.writeController(ctl)
	f.scan(ctl)
	return nil
}

func (f *Fake) allowed(t nvme.Target, portal netip.AddrPort) bool {
	s := f.targets[t.NQN]
	return s != nil && slices.Contains(s.portals, portal) && (s.hosts == nil || s.hosts[t.HostNQN])
}

// freeInstance is the lowest number that neither a controller nor a subsystem has.
func (f *Fake) freeInstance() int {
	used := map[int]bool{}
	for _, c := range f.controllers {
		used[c.instance], used[c.subsystem] = true, true
	}
	n := 0
	for used[n] {
		n++
	}
	return n
}

// of returns the controllers of a subsystem, by name.
func (f *Fake) of(nqn string) []*controller {
	var out []*controller
	for _, name := range slices.Sorted(maps.Keys(f.controllers)) {
		if c := f.controllers[name]; c.target.NQN == nqn {
			out = append(out, c)
		}
	}
	return out
}

// reconnect is an attempt of the kernel's own.
func (f *Fake) reconnect(c *controller) {
	if f.portals[c.portal] != Up {
		f.setState(c, "connecting")
		return
	}
	if !f.allowed(c.target, c.portal) {
		f.remove(c) // Do-Not-Retry, Linux 6.10 on
		return
	}
	f.setState(c, "live")
	f.scan(c)
}

func (f *Fake) setState(c *controller, state string) {
	c.state = state
	f.writeState(c)
}

func (f *Fake) remove(c *controller) {
	for _, name := range slices.Sorted(maps.Keys(f.disks)) {
		f.dropPath(f.disks[name], c)
	}
	delete(f.controllers, c.name)
	f.removeController(c, len(f.of(c.target.NQN)) == 0)
}

func (f *Fake) event(nqn string) {
	if f.missEvents {
		return
	}
	for _, c := range f.of(nqn) {
		f.scan(c)
	}
}

// scan makes the disks of a live controller what its target exports. New NSIDs
// come first and old ones go after (as 6.1 does), so that a UUID under a new
// NSID is refused until the next scan.
func (f *Fake) scan(c *controller) {
	t := f.targets[c.target.NQN]
	if c.state != "live" || t == nil {
		return
	}
	for _, nsid := range slices.Sorted(maps.Keys(t.namespaces)) {
		ns := t.namespaces[nsid]
		if d := f.diskOf(c.target.NQN, func(d *disk) bool { return d.ns.NSID == nsid }); d != nil && !sameIdentity(d.ns, ns) {
			f.dropPath(d, c) // "identifiers changed": the old head goes
		}
		if ns.UUID != uuid.Nil && f.diskOf(c.target.NQN, func(d *disk) bool { return d.ns.NSID != nsid && d.ns.UUID == ns.UUID }) != nil {
			continue // "duplicate IDs"
		}
		f.addPath(c, ns)
	}
	for _, name := range slices.Sorted(maps.Keys(f.disks)) {
		if d := f.disks[name]; d.nqn == c.target.NQN {
			if _, ok := t.namespaces[d.ns.NSID]; !ok {
				f.dropPath(d, c)
			}
		}
	}
}

func sameIdentity(a, b Namespace) bool { return a.UUID == b.UUID && a.NGUID == b.NGUID }

func (f *Fake) diskOf(nqn string, ok func(*disk) bool) *disk {
	for _, name := range slices.Sorted(maps.Keys(f.disks)) {
		if d := f.disks[name]; d.nqn == nqn && ok(d) {
			return d
		}
	}
	return nil
}

// control receives writes to control files.
func (f *Fake) control(name, attr, value string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.controllers[name]
	if c == nil || f.closed {
		return &fs.PathError{Op: "open", Path: f.sys("class/nvme/" + name + "/" + attr), Err: syscall.ENOENT}
	}
	switch attr {
	case nvmesysfs.DeleteController:
		f.remove(c)
	case nvmesysfs.RescanController:
		f.scan(c)
	case nvmesysfs.ResetController:
		if c.state != "live" {
			return syscall.EBUSY
		}
		f.reconnect(c)
	default:
		n, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil {
			return errors.Join(syscall.EINVAL, err)
		}
		if attr == nvmesysfs.ReconnectDelay {
			c.config.ReconnectDelay = n
		} else {
			c.config.CtrlLossTmo = n
		}
		f.writeDelays(c)
	}
	return nil
}
