package nodetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// pollEvery is for targets that announce nothing.
const pollEvery = 10 * time.Millisecond

// wait locks, and returns with the lock held as soon as ok holds. It gives up,
// with the lock held too, when ctx ends or the machine is turned off.
func (m *Machine) wait(ctx context.Context, ok func() bool) error {
	m.mu.Lock()
	for {
		m.refresh()
		if ok() {
			return nil
		}
		changed := m.changed
		m.mu.Unlock()
		tick := time.NewTimer(pollEvery)
		var err error
		select {
		case <-changed:
		case <-tick.C:
		case <-m.off:
			err = errOff
		case <-ctx.Done():
			err = ctx.Err()
		}
		tick.Stop()
		m.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// hang waits as a system call does, until I/O to d goes through or fails, and
// returns with the lock held. What was sent to a disk stays there until that is
// live or gone; then a table has it back.
func (m *Machine) hang(d *disk) error {
	var sent *disk
	err := m.wait(context.Background(), func() bool {
		if sent != nil && sent.gone {
			sent = nil
			d.flying--
		}
		if sent == nil {
			if sent = d.route(); sent == nil {
				return d.fails()
			}
			d.flying++
		}
		s := m.sessions[sent.nqn]
		return s != nil && s.state == "live" && !s.silent
	})
	if sent != nil {
		d.flying--
		m.notify()
	}
	return err
}

// drain is hang, and waits for the I/O of others too.
func (m *Machine) drain(d *disk) error {
	if err := m.hang(d); err != nil {
		return err
	}
	m.mu.Unlock()
	return m.wait(context.Background(), func() bool { return d.flying == 0 })
}

func (m *Machine) ensureSession(ctx context.Context, s initiator.Session) error {
	var refused error
	err := m.wait(ctx, func() bool {
		have := m.sessions[s.NQN]
		if have != nil && m.covered(have, s) {
			return have.state == "live"
		}
		if refused = m.refusing[s.NQN]; refused != nil {
			return true
		}
		if _, ok := m.target.Visible(s.NQN, s.HostNQN); !ok || m.allDark(s.Portals) {
			return false
		}
		if have != nil {
			m.addPaths(have, s)
			return true
		}
		number := 0
		for slices.ContainsFunc(slices.Collect(maps.Values(m.sessions)), func(o *link) bool { return o.number == number }) {
			number++
		}
		m.sessions[s.NQN] = &link{Session: s, number: number, state: "live"}
		m.addPaths(m.sessions[s.NQN], s)
		return true
	})
	defer m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("session %s has no live path: %w (%w)", s.NQN, volume.ErrUnavailable, err)
	}
	return refused
}

func (m *Machine) waitNamespace(ctx context.Context, id initiator.Identity) (ns nvmesysfs.Namespace, device string, err error) {
	var found error
	err = m.wait(ctx, func() bool {
		ns, found = initiator.Match(m.snapshot(id.NQN), id)
		var wrong *initiator.IdentityError
		return found == nil || errors.As(found, &wrong)
	})
	defer m.mu.Unlock()
	if err != nil {
		return ns, "", fmt.Errorf("%s: %w (%w)", id, volume.ErrUnavailable, err)
	}
	return ns, "/dev/" + ns.Disk, found
}

// deleteTime is how long a kernel takes to delete a live controller that is
// silent: it waits for the timeouts of what is under way.
const deleteTime = time.Minute

func (m *Machine) disconnect(nqn string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.sessions[nqn]; s != nil && s.silent {
		m.mu.Unlock()
		time.Sleep(deleteTime)
		m.mu.Lock()
	}
	if m.sessions[nqn] != nil {
		m.ended[nqn]++
	}
	m.end(nqn)
	m.notify()
}
