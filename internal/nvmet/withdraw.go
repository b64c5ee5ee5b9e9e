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

// Withdraw disables and removes a namespace and returns once no write to it
// can reach the device any more: the kernel answers only when all I/O in
// flight has ended. A namespace that is not there is already withdrawn.
//
// I/O in flight never ends by itself when the host died halfway through
// sending the data of a write. After kickAfter, therefore, all controllers of
// the subsystem are disconnected, by writing the value attr_qid_max already
// has (Linux 6.1 and later); their hosts connect again and miss only the
// withdrawn namespace. It is done once per withdrawal: if the backing
// device is what hangs, doing it again would only hurt the other namespaces.
//
// The work goes on when ctx ends; the error then wraps volume.ErrPending and
// the namespace must be taken to be still writable.
func (w *Withdrawer) Withdraw(ctx context.Context, t Tree, nqn string, nsid uint32, kickAfter time.Duration) error {
	if err := checkNQN(nqn); err != nil {
		return err
	}
	run := w.join(t, withdrawalKey{nqn, nsid}, kickAfter)
	object := namespaceObject(nqn, nsid)
	select {
	case <-run.done:
	case <-ctx.Done():
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
	go run.kick(t, key.nqn, kickAfter)
	return run
}

// withdraw writes first, though removing an enabled namespace would disable it
// too: only the write waits for I/O in flight on every kernel.
func withdraw(t Tree, key withdrawalKey) error {
	dir := namespacePath(key.nqn, key.nsid)
	if err := t.WriteFile(dir+"/enable", disabled); err != nil && !gone(err) {
		return err
	}
	if err := t.Rmdir(dir); err != nil && !gone(err) {
		return err
	}
	return nil
}

func (r *withdrawal) kick(t Tree, nqn string, after time.Duration) {
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-r.done:
		return
	case <-timer.C:
	}
	err := Disconnect(t, nqn)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kickErr = err
}

func (r *withdrawal) kicked() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kickErr
}

// Disconnect drops all connections to a subsystem. Hosts that are still
// allowed connect again at once.
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
