// Package nvmettest is a model of the kernel's NVMe target in memory, for
// tests. It answers configfs operations as Linux 6.12 does, with the same
// errnos, and tells what a host would see.
//
// It does not move data, does not speak NVMe, and knows nothing of
// authentication, ANA, referrals or passthru.
package nvmettest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
)

// Kernel is the model; it implements nvmet.Tree. Use New. The function fields
// may be set before the Kernel is used, and SetOnOp at any time.
type Kernel struct {
	// DeviceExists says which paths can be opened as backing devices; nil
	// means all of them. It is called without locks held.
	DeviceExists func(path string) bool

	mu        sync.Mutex
	onOp      func(op, path string) error
	root      *node
	events    []Event
	bindErrs  map[netip.AddrPort]error
	held      map[string]bool           // namespaces with I/O in flight, by path
	config    bool                      // the target's lock is held by a disable
	changed   *sync.Cond                // held, config or draining may have changed
	kicks     map[string]int            // by NQN
	listening map[string]netip.AddrPort // by port name
}

var _ nvmet.Tree = (*Kernel)(nil)

// Event is one operation that was asked for, in order of completion.
type Event struct {
	Op   nvmet.Op
	Path string
	// Value is what was written or linked to.
	Value string
	// Err is how it failed, if it did.
	Err error
}

// String returns the event as a line of a log.
func (e Event) String() string {
	s := fmt.Sprintf("%s %s", e.Op, e.Path)
	if e.Value != "" {
		s += "=" + e.Value
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// New returns a target with nothing configured.
func New() *Kernel {
	k := &Kernel{bindErrs: map[netip.AddrPort]error{}}
	k.changed = sync.NewCond(&k.mu)
	k.reset()
	return k
}

func (k *Kernel) reset() {
	k.root = newRoot()
	k.held = map[string]bool{}
	k.config = false
	k.kicks = map[string]int{}
	k.listening = map[string]netip.AddrPort{}
}

// Reboot forgets everything configured. Events, hooks and bind errors stay.
func (k *Kernel) Reboot() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reset()
	k.changed.Broadcast()
}

// SetOnOp installs a hook that is called before each changing operation,
// without locks held: it may block, and an error makes the operation fail
// with no effect. op is an nvmet.Op.
func (k *Kernel) SetOnOp(f func(op, path string) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.onOp = f
}

// Events returns the changing operations so far.
func (k *Kernel) Events() []Event {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.events)
}

// ClearEvents forgets the events so far.
func (k *Kernel) ClearEvents() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.events = nil
}

// SetBindError makes listening on an address fail, as with
// syscall.EADDRNOTAVAIL or syscall.EADDRINUSE; nil makes it work again.
func (k *Kernel) SetBindError(socket netip.AddrPort, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		delete(k.bindErrs, socket)
		return
	}
	k.bindErrs[socket] = err
}

// HoldIO keeps an I/O of a namespace in flight: disabling or removing it then
// blocks until ReleaseIO, or until the hosts are disconnected, through
// attr_qid_max or because the subsystem is taken off a port. A blocked write to enable holds the lock that nearly every
// other change of the target needs, attr_qid_max included; a blocked rmdir only
// keeps everybody out of the namespaces of that subsystem.
func (k *Kernel) HoldIO(nqn string, nsid uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held[nsPath(nqn, nsid)] = true
}

// ReleaseIO ends the I/O that HoldIO began.
func (k *Kernel) ReleaseIO(nqn string, nsid uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.release(nsPath(nqn, nsid))
}

func (k *Kernel) release(key string) {
	delete(k.held, key)
	k.changed.Broadcast()
}

// drain waits, without the lock, until a namespace has no I/O in flight.
func (k *Kernel) drain(p string) {
	for k.held[p] {
		k.changed.Wait()
	}
}

// awaitConfig waits for the lock of the target (nvmet_config_sem).
func (k *Kernel) awaitConfig() {
	for k.config {
		k.changed.Wait()
	}
}

// awaitDir waits while p leads through a directory that a rmdir has locked.
func (k *Kernel) awaitDir(p string) {
	parts := strings.Split(p, "/")
	if len(parts) < 3 || parts[0] != "subsystems" || parts[2] != "namespaces" {
		return
	}
	for {
		n, err := k.root.find(strings.Join(parts[:3], "/"))
		if err != nil || !n.draining {
			return
		}
		k.changed.Wait()
	}
}

// Kicks returns how often all hosts of a subsystem were disconnected through
// attr_qid_max.
func (k *Kernel) Kicks(nqn string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kicks[nqn]
}

// Discover marks a subsystem as seen by a host, which freezes its serial and
// model.
func (k *Kernel) Discover(nqn string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s, err := k.root.find("subsystems/" + nqn); err == nil {
		s.discovered = true
	}
}

func nsPath(nqn string, nsid uint32) string {
	return fmt.Sprintf("subsystems/%s/namespaces/%d", nqn, nsid)
}

// op runs one changing operation: hook, effect, record.
func (k *Kernel) op(op nvmet.Op, p, val string, effect func() error) error {
	k.mu.Lock()
	hook := k.onOp
	k.mu.Unlock()
	var err error
	if hook != nil {
		err = hook(string(op), p)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.awaitDir(p)
		err = effect()
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w", op, p, err)
	}
	k.events = append(k.events, Event{Op: op, Path: p, Value: val, Err: err})
	return err
}

// ReadFile prints an attribute.
func (k *Kernel) ReadFile(p string) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.awaitDir(p)
	dir, name := split(p)
	n, err := k.root.find(dir)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", p, err)
	}
	text, ok := n.attrs[name]
	if !ok {
		return "", fmt.Errorf("read %s: %w", p, syscall.ENOENT)
	}
	if name == "device_path" && text == "" {
		text = "(null)"
	}
	return text + "\n", nil
}

// ReadDir lists a directory.
func (k *Kernel) ReadDir(p string) ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.awaitDir(p)
	n, err := k.root.find(p)
	if err != nil {
		return nil, fmt.Errorf("read directory %s: %w", p, err)
	}
	return n.names(), nil
}

func split(p string) (dir, name string) {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i], p[i+1:]
	}
	return "", p
}
