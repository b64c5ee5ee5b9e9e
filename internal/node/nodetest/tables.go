package nodetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/holdfast-csi/holdfast/internal/dm"
	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// tableMajor is the device number of the device mapper.
const tableMajor = 254

// table is what holds a volume's I/O, seen from above. Its device is there as long as
// the table, whatever becomes of the disk below; and that disk keeps its name
// and number from others until the table lets go of it.
type table struct {
	name      string
	device    *disk // dm-N
	below     *disk // nil: no table was loaded yet
	active    bool  // I/O is sent below; else it waits, or fails if it does not queue
	queues    bool
	suspended bool
}

// on says whether I/O is sent to d, now and after an outage.
func (t *table) on(d *disk) bool { return t.below == d && t.active && t.queues && !t.suspended }

// route returns the disk that takes the I/O of d, or nil if none does now. The
// I/O that finds the disk below deleted is what makes its path a failed one.
func (d *disk) route() *disk {
	t := d.table
	switch {
	case t == nil && d.gone:
		return nil
	case t == nil:
		return d
	case t.below != nil && t.below.gone:
		t.active = false
	}
	if !t.active || t.suspended {
		return nil
	}
	return t.below
}

// fails says whether I/O to d ends with an error.
func (d *disk) fails() bool {
	if t := d.table; t != nil && (t.queues || t.suspended) {
		return false
	}
	return d.route() == nil
}

// The rest must be called with mu held, but for the methods of Process and those
// that are exported.

// used says whether something has the table's device open.
func (m *Machine) used(t *table) bool {
	d := t.device
	return d.open || m.supers[d.name] != nil ||
		slices.ContainsFunc(m.mounts, func(x mounted) bool { return x.Root == "/"+d.name })
}

// above returns the tables that have d below.
func (m *Machine) above(d *disk) []*table {
	return slices.DeleteFunc(slices.Collect(maps.Values(m.tables)), func(t *table) bool { return t.below != d })
}

func (m *Machine) makeTable(name string) *table {
	if t := m.tables[name]; t != nil {
		return t
	}
	d := &disk{major: tableMajor}
	for m.disks[fmt.Sprintf("dm-%d", d.minor)] != nil {
		d.minor++
	}
	d.name = fmt.Sprintf("dm-%d", d.minor)
	d.table = &table{name: name, device: d}
	m.tables[name], m.disks[d.name] = d.table, d
	return d.table
}

func (m *Machine) ensureTable(name string, p guard.Path, proof guard.Proof) (guard.Device, error) {
	m.mu.Lock()
	d := m.makeTable(name).device.asDevice()
	m.mu.Unlock()
	if err := m.feed(name, p, proof); err != nil {
		return guard.Device{}, fmt.Errorf("guard %s: %w", name, err)
	}
	return d, nil
}

// tear is half of ensureTable: a table without content, or one that is suspended
// to get another.
func (m *Machine) tear(name string, p guard.Path) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.makeTable(name)
	if t.below != nil && !t.on(m.disks[p.Disk]) {
		t.suspended = true
	}
	m.notify()
}

// feed asks for the proof with nothing locked, as the kernel locks nothing.
func (m *Machine) feed(name string, p guard.Path, proof guard.Proof) error {
	m.mu.Lock()
	t, d, err := m.openPath(name, p)
	whole := err == nil && t.on(d)
	m.mu.Unlock()
	if err != nil || whole {
		return err
	}
	if err := proof(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, d, err = m.openPath(name, p); err != nil {
		return err
	}
	if m.supers[d.name] != nil {
		return fmt.Errorf("%s is mounted by itself: %w", d.name, syscall.EBUSY)
	}
	before := t.below
	t.below, t.device.ns = d, d.ns
	t.active, t.queues, t.suspended = true, true, false
	if before != nil {
		m.forget(before)
	}
	m.notify()
	return nil
}

func (m *Machine) openPath(name string, p guard.Path) (*table, *disk, error) {
	m.refresh()
	t, d := m.tables[name], m.disks[p.Disk]
	if t == nil {
		return nil, nil, fmt.Errorf("table %s: %w", name, dm.ErrNotFound)
	}
	if d == nil || d.gone || p.Node != "/dev/"+d.name || p.Major != d.major || p.Minor != d.minor {
		return nil, nil, fmt.Errorf("%s (%d:%d): %w", p.Node, p.Major, p.Minor, syscall.ENXIO)
	}
	return t, d, nil
}

func (d *disk) asDevice() guard.Device {
	return guard.Device{Disk: d.name, Node: "/dev/" + d.name, Major: d.major, Minor: d.minor}
}

func (m *Machine) tableState(name string) (guard.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refresh()
	t := m.tables[name]
	if t == nil {
		return guard.State{}, fmt.Errorf("table %s: %w", name, dm.ErrNotFound)
	}
	s := guard.State{Device: t.device.asDevice(), Suspended: t.suspended, HasTable: t.below != nil}
	if m.used(t) {
		s.OpenCount = 1
	}
	if s.HasTable {
		s.SizeBytes, s.Path = t.below.ns.SizeBytes, fmt.Sprintf("%d:%d", t.below.major, t.below.minor)
		s.Active, s.Queues = t.active, t.queues
	}
	return s, nil
}

// giveUp makes what waits in the table fail; half of it leaves the path in use.
// What was sent below already waits there.
func (m *Machine) giveUp(name string, half bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tables[name]
	if t == nil || t.below == nil {
		return
	}
	t.queues = false
	if !half {
		t.active, t.suspended = false, false
	}
	m.failIfDead(t.device)
	m.notify()
}

// failIfDead loses what waits for a device that will not take it.
func (m *Machine) failIfDead(d *disk) {
	if !d.fails() {
		return
	}
	m.lose(&d.dirty)
	if sb := m.supers[d.name]; sb != nil {
		m.lose(&sb.dirty)
	}
}

func (m *Machine) removeTable(ctx context.Context, name string) error {
	err := m.wait(ctx, func() bool { t := m.tables[name]; return t == nil || !m.used(t) })
	defer m.mu.Unlock()
	if err != nil && errors.Is(err, ctx.Err()) {
		return fmt.Errorf("guard %s: something has the volume open: %w (%w)", name, volume.ErrPending, err)
	}
	t := m.tables[name]
	if err != nil || t == nil {
		return err
	}
	m.lose(&t.device.dirty)
	delete(m.tables, name)
	delete(m.disks, t.device.name)
	if t.below != nil {
		m.forget(t.below)
	}
	m.notify()
	return nil
}

// Feed plays the watch: it puts the live disk of id below a table. Proof makes
// the proof for a path.
func (m *Machine) Feed(name string, id initiator.Identity, proof func(guard.Path) guard.Proof) error {
	m.mu.Lock()
	m.refresh()
	ns, err := initiator.Match(m.snapshot(id.NQN), id)
	s := m.sessions[id.NQN]
	live := s != nil && s.state == "live"
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if !live {
		return fmt.Errorf("session %s: %w", id.NQN, volume.ErrUnavailable)
	}
	p := guard.Path{Disk: ns.Disk, Node: "/dev/" + ns.Disk, Major: ns.Major, Minor: ns.Minor, SizeBytes: ns.SizeBytes}
	return m.feed(name, p, proof(p))
}

// HoldBack plays the watch too: what is sent to the session waits in the tables
// from now on, until they are fed.
func (m *Machine) HoldBack(nqn string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.tables {
		if t.below != nil && t.below.nqn == nqn {
			t.active = false
		}
	}
}

// SetSuspended is what a person does with dmsetup.
func (m *Machine) SetSuspended(name string, suspended bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tables[name].suspended = suspended
	m.notify()
}

// SetOpen makes something that is no mount have a device open: a process that
// outlives its pod's paths.
func (m *Machine) SetOpen(disk string, open bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.disks[disk]; d != nil {
		d.open = open
	}
	m.notify()
}

// Tables returns "DISK over DISK" for every table, sorted, and what is not as it
// is while all is well.
func (m *Machine) Tables() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, t := range m.tables {
		out = append(out, t.String())
	}
	slices.Sort(out)
	return out
}

// TableNames returns what the tables were called by those who made them.
func (m *Machine) TableNames() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.tables))
}

// String is for Tables.
func (t *table) String() string {
	if t.below == nil {
		return t.device.name + " over nothing"
	}
	words := []string{t.device.name + " over " + t.below.name}
	for _, x := range []struct {
		holds bool
		word  string
	}{{t.below.gone, "deleted"}, {!t.active, "failed"}, {!t.queues, "given up"}, {t.suspended, "suspended"}} {
		if x.holds {
			words = append(words, x.word)
		}
	}
	return strings.Join(words, ", ")
}

// Ensure implements node.Options.Guards.
func (p *Process) Ensure(_ context.Context, name string, path guard.Path, _ bool, proof guard.Proof) (d guard.Device, err error) {
	err = p.step("Ensure", func() error {
		d, err = p.m.ensureTable(name, path, proof)
		return err
	}, func() error { p.m.tear(name, path); return nil })
	return d, err
}

// State implements node.Options.Guards.
func (p *Process) State(name string) (s guard.State, err error) {
	err = p.step("TableState", func() error { s, err = p.m.tableState(name); return err }, nil)
	return s, err
}

// GiveUp implements node.Options.Guards.
func (p *Process) GiveUp(name string) error {
	return p.step("GiveUp", func() error { p.m.giveUp(name, false); return nil }, func() error { p.m.giveUp(name, true); return nil })
}

// StopQueueing implements node.Options.Guards.
func (p *Process) StopQueueing(name string) error {
	return p.step("StopQueueing", func() error {
		p.m.mu.Lock()
		defer p.m.mu.Unlock()
		if t := p.m.tables[name]; t != nil {
			t.queues = false
			p.m.failIfDead(t.device)
			p.m.notify()
		}
		return nil
	}, nil)
}

// Remove implements node.Options.Guards.
func (p *Process) Remove(ctx context.Context, name string) error {
	return p.step("Remove", func() error { return p.m.removeTable(ctx, name) }, nil)
}
