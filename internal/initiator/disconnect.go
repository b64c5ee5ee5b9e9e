package initiator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Disconnect deletes the controllers of the subsystem (of this host, if Options
// said who that is) and waits until sysfs has none of them. Nothing there is no
// error. Whatever was not written yet is lost: that it was written is the
// caller's business.
//
// The deletion of a live controller whose path is silent takes the kernel's admin
// time-out, once or twice.
// When ctx ends it goes on, the error wraps volume.ErrPending, and the next
// call joins it.
func (h *Host) Disconnect(ctx context.Context, nqn string) error {
	held, err := h.sessions.lock(ctx, nqn)
	if err != nil {
		return err
	}
	defer held.done()
	for wait := pollMin; ; wait = min(wait*2, pollMax) {
		left, err := h.ours(nqn)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
		var deleted <-chan struct{}
		for _, c := range left {
			deleted = h.delete(c)
		}
		if !sleepUnless(ctx, wait, deleted) {
			return h.notGone(nqn, left, ctx.Err())
		}
	}
}

// sleepUnless is sleep that ends early when done is closed.
func sleepUnless(ctx context.Context, d time.Duration, done <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

func (h *Host) ours(nqn string) ([]nvmesysfs.Controller, error) {
	controllers, err := h.fs.ControllersOf(nqn)
	if err != nil {
		return nil, fmt.Errorf("session %s: %w", nqn, err)
	}
	var ours []nvmesysfs.Controller
	for _, c := range controllers {
		if h.hostNQN == "" || c.HostNQN == "" || strings.EqualFold(h.hostNQN, c.HostNQN) {
			ours = append(ours, c)
		}
	}
	return ours, nil
}

func (h *Host) notGone(nqn string, left []nvmesysfs.Controller, cause error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var seen []string
	for _, c := range left {
		s := fmt.Sprintf("%s is still %s", c.Name, c.State)
		if err := h.refused[c.Name]; err != nil {
			s += fmt.Sprintf(" (%v)", err)
		}
		seen = append(seen, s)
	}
	return fmt.Errorf("session %s: %s: %w (%w)", nqn, strings.Join(seen, "; "), volume.ErrPending, cause)
}

// delete starts the deletion of a controller unless one is under way, and says
// when it has ended. It runs on its own because the write blocks for as long as
// the kernel likes. A refusal (EBUSY: never live yet) is kept for the error text;
// nothing ends then, and the caller's next look tries again.
func (h *Host) delete(c nvmesysfs.Controller) (ended <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if under := h.deleting[c.Name]; under != nil || c.Ending() {
		return under
	}
	done := make(chan struct{})
	h.deleting[c.Name] = done
	go func() {
		relax := h.hurry()
		err := h.fs.WriteControl(c.Name, nvmesysfs.DeleteController, "1")
		relax()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.deleting, c.Name)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			delete(h.refused, c.Name)
			close(done)
		} else {
			h.refused[c.Name] = err
		}
	}()
	return done
}
