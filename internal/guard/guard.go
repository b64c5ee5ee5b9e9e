package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/dm"
	"github.com/holdfast-csi/holdfast/internal/urgent"
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
	Loaded(name string) (dm.Device, dm.Target, error)
	HasTarget(name string) bool
	List() ([]dm.Entry, error)
}

// Guards are the guarded volumes of this machine. Calls for one table exclude
// each other.
type Guards struct {
	dm  mapper
	dev string // "/dev"

	// waits says that the kernel has the targets of waitTable and wallTable. Without
	// them a leg that is suspended collects what comes, which costs a processor per
	// volume once a file is read.
	waits bool

	open func(Path) (io.Closer, error) // openPath; the tests have no block devices
	turn chan struct{}                 // holds one while one has the turn

	mu     sync.Mutex
	locked map[string]chan struct{} // closed when unlocked; guarded by mu
	closed bool                     // guarded by mu
	last   []dm.Entry               // of List; guarded by mu
	events map[string]uint32        // of last; guarded by mu
}

// New returns the guards of a device mapper.
func New(m mapper, dev string) *Guards {
	return &Guards{dm: m, dev: dev, waits: m.HasTarget("delay") && m.HasTarget("flakey"), open: openPath, turn: make(chan struct{}, 1), locked: map[string]chan struct{}{}}
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
	// Path is the device number of the disk below, MAJOR:MINOR, or of the last one;
	// Active says that I/O is sent there.
	Path   string
	Active bool
	// Holds says that what comes, or some of it, is collected for the next path.
	Holds bool
	// Queues is false once waiting was given up.
	Queues    bool
	Suspended bool
	// NewTable is one that was loaded and not put to use.
	NewTable bool
	HasTable bool
	// Untidy says that a Feed of Path would find something to do, or will: what another
	// was killed in, or could not do yet.
	Untidy bool
}

// On says whether the table sends its I/O to p.
func (s State) On(p Path) bool { return s.HasTable && s.Active && !s.Holds && s.Path == p.dev() }

// Whole says whether the table is as it should be over p: there is nothing to feed.
func (s State) Whole(p Path) bool {
	return s.On(p) && s.Queues && !s.Suspended && !s.NewTable && !s.Untidy && s.SizeBytes == p.SizeBytes
}

// State looks at a table; dm.ErrNotFound if there is none.
func (g *Guards) State(name string) (State, error) {
	l, err := g.look(name)
	if err != nil {
		return State{}, err
	}
	s := State{
		Device: g.device(l.top), OpenCount: l.top.OpenCount, SizeBytes: int64(l.size) * sectorSize,
		Suspended: l.top.Suspended, NewTable: l.top.HasNewTable, HasTable: l.top.HasTable, Queues: l.queues,
	}
	s.Path, s.Active = l.disk()
	s.Holds, s.NewTable = l.leg.collects(), s.NewTable || l.leg.strange()
	s.Untidy = l.untidy()
	return s, nil
}

func (g *Guards) device(d dm.Device) Device {
	return Device{Disk: d.Disk(), Node: filepath.Join(g.dev, d.Disk()), Major: d.Major, Minor: d.Minor}
}

// Proof says whether a path is still the right device. It is asked while the
// device is held open, so that its number cannot change hands.
type Proof func() error

// Ensure makes the table of a volume, or finds it, and puts p below it.
func (g *Guards) Ensure(ctx context.Context, name string, p Path, readOnly bool, proof Proof) (Device, error) {
	if err := g.make(ctx, name); err != nil {
		return Device{}, err
	}
	err := g.feed(name, p, readOnly, proof, func() (func(), error) { return g.lock(ctx, name) })
	if err != nil {
		return Device{}, err
	}
	d, err := g.dm.Get(name)
	return g.device(d), err
}

// make makes an empty table unless there is one.
func (g *Guards) make(ctx context.Context, name string) error {
	unlock, err := g.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = g.dm.Create(name, uuidOf(name))
	if errors.Is(err, dm.ErrExists) {
		return nil
	}
	return err
}

// Feed puts p below an existing table and lets I/O go on. A table that is on p
// already is not touched. It is safe to be killed at every step of it: the next
// call goes on from whatever is there. ErrBusy if another call is at it.
func (g *Guards) Feed(name string, p Path, readOnly bool, proof Proof) error {
	return g.feed(name, p, readOnly, proof, func() (func(), error) {
		unlock, ok := g.tryLock(name)
		if !ok {
			return nil, fmt.Errorf("guard %s: %w", name, volume.ErrBusy)
		}
		return unlock, nil
	})
}

// feed opens the disk before it locks: that can take as long as the disk likes,
// and nobody shall have to wait for it.
func (g *Guards) feed(name string, p Path, readOnly bool, proof Proof, lock func() (func(), error)) (err error) {
	l, err := g.look(name)
	if err != nil || len(l.plan(p)) == 0 {
		return err
	}
	// From here to the end the number cannot be given to another device.
	var f io.Closer
	err = urgent.Do(func() (err error) { f, err = g.open(p); return err })
	if err != nil {
		return fmt.Errorf("guard %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	c := change{name: name, path: p, readOnly: readOnly, proof: proof}
	if err := g.lookAgain(&c); err != nil {
		return err
	}
	if c.layout.over(p) || !c.layout.top.HasTable {
		return g.carryOut(&c, c.layout.plan(p))
	}
	// It may have had to wait for its turn, so each part is planned after another look.
	if err := g.inTurn(&c, func(l layout) []step { return leading(l.plan(p)) }); err != nil {
		return err
	}
	return g.inTurn(&c, func(l layout) []step { return l.plan(p) })
}

// lookAgain has the path of a change proven, and then looks at what there is to change.
func (g *Guards) lookAgain(c *change) error {
	return urgent.Do(func() (err error) {
		if err = c.proof(); err != nil {
			return fmt.Errorf("guard %s: %w", c.name, err)
		}
		c.layout, err = g.look(c.name)
		return err
	})
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

// Hold has what comes wait for the next Feed instead of sending it to a path that
// does not answer: what waits below would go out before anybody has looked at what
// comes back. It is also what makes waiting cheap: a multipath target without any
// path keeps a processor busy for as long as something waits in it, because its
// worker takes what is queued, finds no path and queues it again (dm-mpath.c,
// process_queued_bios). It does nothing, which is no error, while another call is
// at the table. One that was given up queues again.
func (g *Guards) Hold(name string) error {
	unlock, ok := g.tryLock(name)
	if !ok {
		return nil
	}
	defer unlock()
	l, err := g.look(name)
	if err != nil {
		return err
	}
	return g.carryOut(&change{name: name, layout: l}, l.planHold())
}

// GiveUp ends the waiting of one volume: what waits and what comes fails until
// Feed. No table is no error. ErrBusy if another call is at it and something is
// left for when that has ended.
func (g *Guards) GiveUp(name string) error { return g.end(name, true) }

// StopQueueing makes a table one that fails its I/O when the path is lost, and
// leaves the path that serves. Feed ends it. No table is no error. ErrBusy as with
// GiveUp.
func (g *Guards) StopQueueing(name string) error { return g.end(name, false) }

// endWait is how long an end waits for another call. Those are done in a moment, but
// one may be waiting for the very I/O that is to end.
const endWait = 4 * turnWait

func (g *Guards) end(name string, now bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	unlock, busy := g.lock(ctx, name)
	if busy == nil {
		defer unlock()
	}
	l, err := g.look(name)
	if errors.Is(err, dm.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	steps := l.planEnd(now)
	if busy == nil {
		return g.carryOut(&change{name: name, layout: l}, steps)
	}
	if !l.top.Suspended { // which would take no messages
		err = g.carryOut(&change{name: name, layout: l}, messages(steps))
	}
	return errors.Join(err, fmt.Errorf("guard %s: %w", name, volume.ErrBusy))
}

// pollEvery is how often a table that is in use is tried again: udev or a
// person may be looking at it.
const pollEvery = 20 * time.Millisecond

// Remove removes a table and what belongs to it once nothing has it open, waiting
// for that as long as ctx lives (volume.ErrPending). No table is no error.
func (g *Guards) Remove(ctx context.Context, name string) error {
	unlock, err := g.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := g.remove(ctx, name); err != nil {
		return err
	}
	if err := g.release(name); err != nil {
		return err
	}
	if err := g.remove(ctx, name+legSuffix); err != nil {
		return err
	}
	return g.remove(ctx, name+wallSuffix)
}

// release fails what somebody reads of a leg that keeps it, and whose table is gone:
// or it would be in use for ever.
func (g *Guards) release(name string) error {
	w, err := g.lookAtWall(name + wallSuffix)
	if err != nil {
		return err
	}
	l := layout{wall: w}
	if l.leg, err = g.lookAtLeg(name+legSuffix, l); err != nil || !l.leg.HasTable {
		return err
	}
	l.size = l.leg.size
	return g.carryOut(&change{name: name, layout: l}, append(l.open(), l.leg.spill()...))
}

func (g *Guards) remove(ctx context.Context, device string) error {
	for {
		err := g.dm.Remove(device)
		if err == nil || errors.Is(err, dm.ErrNotFound) {
			return nil
		}
		if !errors.Is(err, dm.ErrBusy) {
			return err
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return fmt.Errorf("guard %s: something has the volume open: %w (%w)", device, volume.ErrPending, err)
		}
	}
}
