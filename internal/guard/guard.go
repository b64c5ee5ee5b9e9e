package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/dm"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// mapper is what is needed of the device mapper; *dm.Client is the real one.
type mapper interface { //nolint:interfacebloat // the device mapper has so many calls
	Create(name, uuid string) (dm.Device, error)
	Get(name string) (dm.Device, error)
	Load(name string, t dm.Table) error
	Clear(name string) error
	Suspend(name string) error
	Resume(name string, f dm.UdevFlags) (dm.Device, error)
	Remove(name string) error
	Message(name, text string) error
	Status(name string) (dm.Device, dm.Target, error)
	Table(name string) (dm.Device, dm.Target, error)
	List() ([]dm.Entry, error)
}

// Guards are the guarded volumes of this machine. Calls for one table exclude
// each other.
type Guards struct {
	dm  mapper
	dev string // "/dev"

	open func(Path) (io.Closer, error) // openPath; the tests have no block devices

	mu     sync.Mutex
	held   map[string]chan struct{} // closed when let go; guarded by mu
	closed bool                     // guarded by mu
	last   []dm.Entry               // of List; guarded by mu
	events map[string]uint32        // of last; guarded by mu
}

// New returns the guards of a device mapper.
func New(m mapper, dev string) *Guards {
	return &Guards{dm: m, dev: dev, open: openPath, held: map[string]chan struct{}{}}
}

// Device is what is mounted, or shown to a pod as a block device.
type Device struct {
	Disk         string // dm-3
	Node         string // /dev/dm-3
	Major, Minor uint32
}

// State is what a table is like now.
type State struct {
	Device
	OpenCount int
	SizeBytes int64
	// Path is the device number below, MAJOR:MINOR; Active says that I/O is sent
	// there, and not held back since it failed.
	Path   string
	Active bool
	// Below is how much I/O was sent there and is not done.
	Below int
	// Queues is false once waiting was given up.
	Queues    bool
	Suspended bool
	// NewTable is a table that was loaded and not put to use.
	NewTable bool
	HasTable bool
}

// On says whether the table sends its I/O to p.
func (s State) On(p Path) bool { return s.HasTable && s.Active && s.Path == p.dev() }

// State looks at a table; dm.ErrNotFound if there is none.
func (g *Guards) State(name string) (State, error) {
	d, status, err := g.dm.Status(name)
	if err != nil {
		return State{}, err
	}
	s := State{
		Device: g.device(d), OpenCount: d.OpenCount, SizeBytes: int64(status.Sectors) * sectorSize,
		Suspended: d.Suspended, NewTable: d.HasNewTable, HasTable: d.HasTable,
	}
	if !d.HasTable || status.Text == "" {
		s.HasTable = false
		return s, nil
	}
	below, err := parseStatus(status.Text)
	if err != nil {
		return State{}, err
	}
	s.Path, s.Active, s.Below = below.dev, below.active, below.below
	_, table, err := g.dm.Table(name)
	if err != nil {
		return State{}, err
	}
	s.Queues, err = parseTable(table.Text)
	// A suspend takes the flag away and keeps it for the resume; what was given
	// up is never suspended.
	s.Queues = s.Queues || s.Suspended
	return s, err
}

// Spins says whether the table holds I/O back itself, with none of it below: then
// what waits keeps a processor busy, see Park.
func (s State) Spins() bool {
	return s.HasTable && !s.Suspended && !s.Active && s.Queues && s.Below == 0
}

func (g *Guards) device(d dm.Device) Device {
	return Device{Disk: d.Disk(), Node: filepath.Join(g.dev, d.Disk()), Major: d.Major, Minor: d.Minor}
}

// Proof says whether a path is still the right device. It is asked while the
// device is held open, so that its number cannot change hands.
type Proof func() error

// Ensure makes the table of a volume, or finds it, and puts p below it.
func (g *Guards) Ensure(ctx context.Context, name string, p Path, readOnly bool, proof Proof) (Device, error) {
	release, err := g.hold(ctx, name)
	if err != nil {
		return Device{}, err
	}
	defer release()
	_, err = g.dm.Create(name, Prefix+strings.TrimPrefix(name, namePrefix))
	if err != nil && !errors.Is(err, dm.ErrExists) {
		return Device{}, err
	}
	if err := g.feed(name, p, readOnly, proof); err != nil {
		return Device{}, err
	}
	d, err := g.dm.Get(name)
	return g.device(d), err
}

// Feed puts p below an existing table and lets I/O go on. A table that is on p
// already is not touched. It is safe to be killed at every step of it: the next
// call goes on from whatever is there. ErrBusy if another call is at it.
func (g *Guards) Feed(name string, p Path, readOnly bool, proof Proof) error {
	release, ok := g.tryHold(name)
	if !ok {
		return fmt.Errorf("guard %s: %w", name, volume.ErrBusy)
	}
	defer release()
	return g.feed(name, p, readOnly, proof)
}

func (g *Guards) feed(name string, p Path, readOnly bool, proof Proof) (err error) {
	s, err := g.State(name)
	if err != nil {
		return err
	}
	steps := plan(s, p)
	if len(steps) == 0 {
		return nil
	}
	// From here to the end the number cannot be given to another device.
	f, err := g.open(p)
	if err != nil {
		return fmt.Errorf("guard %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := proof(); err != nil {
		return fmt.Errorf("guard %s: %w", name, err)
	}
	for _, x := range steps {
		if err := g.take(x, name, p, readOnly, proof); err != nil {
			return fmt.Errorf("guard %s: %s: %w", name, x, err)
		}
	}
	return nil
}

// openPath opens the node of p, if it is still that device.
func openPath(p Path) (io.Closer, error) {
	f, err := os.OpenFile(p.Node, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := isDevice(f, p); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// isDevice says whether an open file is the device of p.
func isDevice(f *os.File, p Path) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || unix.Major(st.Rdev) != p.Major || unix.Minor(st.Rdev) != p.Minor {
		return fmt.Errorf("%s is not the block device %s any more: %w", p.Node, p.dev(), volume.ErrUnavailable)
	}
	return nil
}

// step is one change of a table.
type step string

const (
	drop      step = "drop the table that was never put to use"
	load      step = "load the table"
	suspend   step = "suspend"
	resume    step = "resume"
	queueing  step = "queue while there is no path"
	reinstate step = "reinstate the path"
)

// plan is a pure function: what makes a table that looks like s send its I/O
// to p.
func plan(s State, p Path) []step {
	var steps []step
	if s.NewTable {
		steps = append(steps, drop) // whose path it has is not known any more
	}
	switch {
	case !s.HasTable:
		return append(steps, load, resume)
	case s.Suspended || s.Path != p.dev() || s.SizeBytes != p.SizeBytes/sectorSize*sectorSize:
		// A suspended target refuses messages (EBUSY): a fresh table is the way out
		// that needs none.
		steps = append(steps, load)
		if !s.Suspended {
			steps = append(steps, suspend)
		}
		return append(steps, resume)
	}
	if !s.Queues {
		steps = append(steps, queueing)
	}
	if !s.Active {
		steps = append(steps, reinstate)
	}
	return steps
}

func (g *Guards) take(x step, name string, p Path, readOnly bool, proof Proof) error {
	switch x {
	case drop:
		return g.dm.Clear(name)
	case load:
		if err := g.dm.Load(name, multipathTable(p, readOnly)); err != nil {
			return err
		}
		// The new table holds the device itself now; nothing has been sent there.
		if err := proof(); err != nil {
			return errors.Join(err, g.dm.Clear(name)) // or whoever resumes next puts it to use
		}
		return nil
	case suspend:
		return g.dm.Suspend(name)
	case resume:
		_, err := g.dm.Resume(name, dm.NoScan)
		return err
	case queueing:
		return g.dm.Message(name, "queue_if_no_path")
	default:
		return g.dm.Message(name, "reinstate_path "+p.dev())
	}
}

// Hold keeps I/O back in the table instead of sending it to a path that does
// not answer: what waits below would go out before anybody has looked at what
// comes back. Feed ends it. It does nothing while another call is at the table.
func (g *Guards) Hold(name, path string) error {
	release, ok := g.tryHold(name)
	if !ok {
		return nil
	}
	defer release()
	return g.dm.Message(name, "fail_path "+path)
}

// Park suspends a table that holds I/O back. A multipath target without a path
// keeps a processor busy for as long as anything waits in it: its worker takes
// what is queued, finds no path and queues it again (dm-mpath.c,
// process_queued_bios). What waits for a suspended device costs nothing. It does
// nothing while I/O is under way below, which a suspend would wait for, or another
// call is at the table. Feed ends it.
func (g *Guards) Park(name string) error {
	release, ok := g.tryHold(name)
	if !ok {
		return nil
	}
	defer release()
	s, err := g.State(name)
	if err != nil || !s.Spins() {
		return err
	}
	return g.dm.Suspend(name)
}

// GiveUp ends the waiting of one volume: what waits and what comes fails until
// Feed. No table is no error.
func (g *Guards) GiveUp(name string) error {
	s, err := g.stopQueueing(name)
	if s.Active {
		// What is below may wait too, and as long as it likes.
		err = errors.Join(err, g.dm.Message(name, "fail_path "+s.Path))
	}
	return err
}

// StopQueueing makes a table one that fails its I/O when the path is lost, and
// leaves the path. Feed ends it. No table is no error.
func (g *Guards) StopQueueing(name string) error {
	_, err := g.stopQueueing(name)
	return err
}

// stopQueueing also returns the table as it was, if it has come as far as telling
// it.
func (g *Guards) stopQueueing(name string) (State, error) {
	s, err := g.State(name)
	if errors.Is(err, dm.ErrNotFound) {
		return State{}, nil
	}
	if err != nil || !s.HasTable {
		return State{}, err
	}
	if err := g.awake(name, s); err != nil {
		return State{}, err
	}
	return s, g.dm.Message(name, "fail_if_no_path")
}

// awake resumes what is parked, or was left suspended by a killed swap, on the
// table that it had: whoever could vouch for another is gone. ErrBusy if a swap
// is still under way, and about to resume itself.
func (g *Guards) awake(name string, s State) error {
	if !s.Suspended {
		return nil
	}
	release, ok := g.tryHold(name)
	if !ok {
		return fmt.Errorf("guard %s: %w", name, volume.ErrBusy)
	}
	defer release()
	if err := g.dm.Clear(name); err != nil {
		return fmt.Errorf("guard %s: %w", name, err)
	}
	if _, err := g.dm.Resume(name, dm.NoScan); err != nil {
		return fmt.Errorf("guard %s: %w", name, err)
	}
	return nil
}

// pollEvery is how often a table that is in use is tried again: udev or a
// person may be looking at it.
const pollEvery = 20 * time.Millisecond

// Remove removes a table once nothing has it open, waiting for that as long as
// ctx lives (volume.ErrPending). No table is no error.
func (g *Guards) Remove(ctx context.Context, name string) error {
	release, err := g.hold(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	for {
		err := g.dm.Remove(name)
		if err == nil || errors.Is(err, dm.ErrNotFound) {
			return nil
		}
		if !errors.Is(err, dm.ErrBusy) {
			return err
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return fmt.Errorf("guard %s: something has the volume open: %w (%w)", name, volume.ErrPending, err)
		}
	}
}

// List returns the names of all our tables, with their event numbers: the very
// same map as before while the device mapper returns the same list. It is not to
// be changed.
func (g *Guards) List() (map[string]uint32, error) {
	list, err := g.dm.List()
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(list) > 0 && len(list) == len(g.last) && &list[0] == &g.last[0] {
		return g.events, nil
	}
	g.last, g.events = list, eventsOf(list)
	return g.events, nil
}

func eventsOf(list []dm.Entry) map[string]uint32 {
	out := map[string]uint32{}
	for _, e := range list {
		if strings.HasPrefix(e.Name, namePrefix) {
			out[e.Name] = e.Events
		}
	}
	return out
}

// Close lets nothing new begin and waits for what is under way, as long as ctx
// lives: a process that ends interrupts its suspends, and a multipath target
// whose suspend was interrupted queues no more until it is told to.
func (g *Guards) Close(ctx context.Context) {
	g.mu.Lock()
	g.closed = true
	under := slices.Collect(maps.Values(g.held))
	g.mu.Unlock()
	for _, done := range under {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
}

func (g *Guards) tryHold(name string) (release func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.held[name] != nil {
		return nil, false
	}
	done := make(chan struct{})
	g.held[name] = done
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.held, name)
		close(done)
	}, true
}

func (g *Guards) hold(ctx context.Context, name string) (func(), error) {
	for {
		if release, ok := g.tryHold(name); ok {
			return release, nil
		}
		g.mu.Lock()
		done, closed := g.held[name], g.closed
		g.mu.Unlock()
		if closed {
			return nil, fmt.Errorf("guard %s: %w: this process is ending", name, volume.ErrUnavailable)
		}
		if done == nil {
			continue
		}
		select {
		case <-done:
		case <-ctx.Done():
			return nil, fmt.Errorf("guard %s: another call is at it: %w (%w)", name, volume.ErrPending, ctx.Err())
		}
	}
}
