package nvmet

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// DefaultKickAfter is how long a withdrawal waits for I/O in flight before it
// disconnects the hosts of the subsystem.
const DefaultKickAfter = 10 * time.Second

// Withdrawer takes namespaces away from hosts. It remembers withdrawals that
// the kernel has not finished, so that asking again joins the running one
// instead of adding another blocked thread. The zero value is ready for use.
type Withdrawer struct {
	// Kick disconnects the hosts of a subsystem; nil means Disconnect, which
	// has no effect on Linux 6.1. Set it before the first use.
	Kick func(nqn string) error

	mu      sync.Mutex
	running map[withdrawalKey]*withdrawal
}

type withdrawalKey struct {
	nqn  string
	nsid uint32
}

type withdrawal struct {
	done chan struct{}

	mu      sync.Mutex
	err     error // valid once done is closed
	kickErr error
}

// Withdraw removes a namespace and returns once no write to it can reach the
// device any more: hosts lose it at once, and the kernel answers when all I/O
// in flight has ended. A namespace that is not there is already withdrawn.
//
// I/O in flight never ends by itself when the host died halfway through
// sending the data of a write. After kickAfter, therefore, all controllers of
// the subsystem are disconnected (see Kick); their hosts connect again and miss
// only the withdrawn namespace. It is done once per withdrawal: if the backing
// device is what hangs, doing it again would only hurt the other namespaces.
//
// The work goes on when ctx ends; the error then wraps volume.ErrPending and
// the namespace must be taken to be still writable. Until it is done, anything
// that looks into the subsystem's namespaces blocks in the kernel, Observe and
// Plan's steps included, in this process and in a restarted one; other
// subsystems are not affected. Ask PendingIn first.
func (w *Withdrawer) Withdraw(ctx context.Context, t Tree, nqn string, nsid uint32, kickAfter time.Duration) error {
	if err := checkNQN(nqn); err != nil {
		return err
	}
	run := w.join(t, withdrawalKey{nqn, nsid}, kickAfter)
	object := namespaceObject(nqn, nsid)
	select {
	case <-run.done:
	case <-ctx.Done():
		if run.finished() {
			break
		}
		err := fmt.Errorf("withdraw %s: %w: %w", object, volume.ErrPending, context.Cause(ctx))
		if kick := run.kicked(); kick != nil {
			err = fmt.Errorf("%w (disconnecting hosts: %w)", err, kick)
		}
		return err
	}
	if run.err != nil {
		return fmt.Errorf("withdraw %s: %w", object, run.err)
	}
	return nil
}

// Pending reports whether a withdrawal of the namespace is still running.
func (w *Withdrawer) Pending(nqn string, nsid uint32) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.running[withdrawalKey{nqn, nsid}]
	return ok
}

// PendingIn reports whether any withdrawal from the subsystem is running.
func (w *Withdrawer) PendingIn(nqn string) bool {
	return w.anyIn(nqn) != nil
}

// Await waits until no withdrawal from the subsystem is running, for as long as ctx
// lives, and says whether that came to be.
func (w *Withdrawer) Await(ctx context.Context, nqn string) bool {
	for {
		run := w.anyIn(nqn)
		if run == nil {
			return true
		}
		select {
		case <-run.done:
		case <-ctx.Done():
			return false
		}
	}
}

// anyIn returns a withdrawal from the subsystem that is running, or nil.
func (w *Withdrawer) anyIn(nqn string) *withdrawal {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, run := range w.running {
		if key.nqn == nqn {
			return run
		}
	}
	return nil
}

func (w *Withdrawer) join(t Tree, key withdrawalKey, kickAfter time.Duration) *withdrawal {
	w.mu.Lock()
	defer w.mu.Unlock()
	if run, ok := w.running[key]; ok {
		return run
	}
	run := &withdrawal{done: make(chan struct{})}
	if w.running == nil {
		w.running = map[withdrawalKey]*withdrawal{}
	}
	w.running[key] = run
	go func() {
		err := withdraw(t, key)
		w.mu.Lock()
		delete(w.running, key)
		w.mu.Unlock()
		run.err = err
		close(run.done)
	}()
	kick := w.Kick
	if kick == nil {
		kick = func(nqn string) error { return Disconnect(t, nqn) }
	}
	go run.kick(kick, key.nqn, kickAfter)
	return run
}

// withdraw must not write 0 to enable: that waits with the very lock held that
// the write to attr_qid_max needs (see planner.removeNamespace). configfs
// releases the object within rmdir, as open attribute files do not pin it
// (since Linux 5.4), so a return means that the I/O has ended.
func withdraw(t Tree, key withdrawalKey) error {
	err := t.Rmdir(namespacePath(key.nqn, key.nsid))
	if gone(err) {
		return nil
	}
	return err
}

func (r *withdrawal) finished() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func (r *withdrawal) kick(kick func(string) error, nqn string, after time.Duration) {
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-r.done:
		return
	case <-timer.C:
	}
	err := kick(nqn)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kickErr = err
}

func (r *withdrawal) kicked() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kickErr
}

// Disconnect drops all connections to a subsystem, by writing the value that
// attr_qid_max already has. Hosts that are still allowed connect again at once.
// Linux 6.12 does it; 6.1 takes the write and drops nobody (measured).
func Disconnect(t Tree, nqn string) error {
	attr := subsystemPath(nqn) + "/attr_qid_max"
	text, err := t.ReadFile(attr)
	if err != nil {
		return fmt.Errorf("disconnect hosts of subsystem %s: %w", nqn, err)
	}
	if err := t.WriteFile(attr, strings.TrimSpace(text)); err != nil {
		return fmt.Errorf("disconnect hosts of subsystem %s: %w", nqn, err)
	}
	return nil
}
