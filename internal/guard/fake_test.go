package guard

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/dm"
)

// fake is a device mapper in memory that knows the multipath target. Where it
// is odd, Linux 6.1 and 6.12 are: see the kernel tests.
type fake struct {
	mu      sync.Mutex
	devices map[string]*fakeDevice
	minor   uint32
	calls   []string

	// fault breaks the call of that number, counted from 1; 0 breaks none.
	fault int
	kind  faultKind
	// before is called with every call, without the lock.
	before func(op, name string)
}

// faultKind is how the call goes wrong: with or without its effect, and whether
// the process gets to do anything after it.
type faultKind struct{ late, deadly bool }

var faultKinds = []faultKind{{false, false}, {true, false}, {false, true}, {true, true}}

func (k faultKind) String() string {
	when, what := "before", "failed"
	if k.late {
		when = "after"
	}
	if k.deadly {
		what = "was killed"
	}
	return what + " " + when
}

type fakeDevice struct {
	dm.Device
	live, fresh *fakeTable
}

type fakeTable struct {
	path     string
	sectors  uint64
	active   bool
	queues   bool
	readOnly bool
	below    int // I/O under way there
}

var (
	errFault = errors.New("fault")
	errArg   = fmt.Errorf("fake: %w", unix.EINVAL)
)

func newFake() *fake { return &fake{devices: map[string]*fakeDevice{}} }

// guards is a process that has just begun: it knows nothing but the kernel. The
// opener counts what is open.
func (f *fake) guards() (*Guards, *opener) {
	o := &opener{}
	g := New(f, "/dev")
	g.open = o.open
	return g, o
}

type opener struct{ opened, closed int }

func (o *opener) open(Path) (io.Closer, error) { o.opened++; return o, nil }
func (o *opener) Close() error                 { o.closed++; return nil }

// proof is right while the device is held open.
func (o *opener) proof() error {
	if o.opened != o.closed+1 {
		return errors.New("asked while the device is not held open")
	}
	return nil
}

// call counts a call and carries it out, but for the faults.
func (f *fake) call(op, name string, effect func() error) error {
	if f.before != nil {
		f.before(op, name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, op)
	n := len(f.calls)
	hit := n == f.fault
	if hit && !f.kind.late || f.fault != 0 && n > f.fault && f.kind.deadly {
		return errFault
	}
	if err := effect(); err != nil {
		return err
	}
	if hit {
		return errFault
	}
	return nil
}

// on is a call for one device that exists.
func (f *fake) on(op, name string, effect func(d *fakeDevice) error) (out dm.Device, err error) {
	err = f.call(op, name, func() error {
		d := f.devices[name]
		if d == nil {
			return fmt.Errorf("fake: %w", dm.ErrNotFound)
		}
		err := effect(d)
		d.HasTable, d.HasNewTable = d.live != nil, d.fresh != nil
		out = d.Device
		return err
	})
	return out, err
}

func (f *fake) Create(name, uuid string) (out dm.Device, err error) {
	err = f.call("create", name, func() error {
		for _, d := range f.devices {
			if d.Name == name || d.UUID == uuid {
				return fmt.Errorf("fake: %w", dm.ErrExists)
			}
		}
		out = dm.Device{Name: name, UUID: uuid, Major: 254, Minor: f.minor}
		f.minor++
		f.devices[name] = &fakeDevice{Device: out}
		return nil
	})
	return out, err
}

func (f *fake) Get(name string) (dm.Device, error) {
	return f.on("get", name, func(*fakeDevice) error { return nil })
}

var tableForm = regexp.MustCompile(`^3 queue_if_no_path queue_mode bio 0 1 1 queue-length 0 1 1 ([0-9]+:[0-9]+) 1$`)

func (f *fake) Load(name string, t dm.Table) error {
	_, err := f.on("load", name, func(d *fakeDevice) error {
		m := tableForm.FindStringSubmatch(t.Params)
		if m == nil || t.Target != "multipath" || t.Sectors == 0 {
			return errArg
		}
		d.fresh = &fakeTable{path: m[1], sectors: t.Sectors, active: true, queues: true, readOnly: t.ReadOnly}
		return nil
	})
	return err
}

func (f *fake) Clear(name string) error {
	_, err := f.on("clear", name, func(d *fakeDevice) error { d.fresh = nil; return nil })
	return err
}

func (f *fake) Suspend(name string) error {
	_, err := f.on("suspend", name, func(d *fakeDevice) error { d.Suspended = true; return nil })
	return err
}

func (f *fake) Resume(name string, flags dm.UdevFlags) (dm.Device, error) {
	return f.on("resume", name, func(d *fakeDevice) error {
		if flags != dm.NoScan {
			return errArg
		}
		if d.fresh != nil {
			d.live, d.fresh = d.fresh, nil
			d.ReadOnly = d.live.readOnly
		}
		if d.live == nil {
			return errArg
		}
		d.Suspended = false
		return nil
	})
}

func (f *fake) Remove(name string) error {
	_, err := f.on("remove", name, func(d *fakeDevice) error {
		if d.OpenCount > 0 {
			return fmt.Errorf("fake: %w", dm.ErrBusy)
		}
		delete(f.devices, name)
		return nil
	})
	return err
}

func (f *fake) Message(name, text string) error {
	_, err := f.on("message", name, func(d *fakeDevice) error {
		if d.live == nil {
			return errArg
		}
		if d.Suspended {
			return fmt.Errorf("fake: %w", dm.ErrBusy)
		}
		d.Events++
		return d.live.message(text)
	})
	return err
}

func (t *fakeTable) message(text string) error {
	switch text {
	case "queue_if_no_path":
		t.queues = true
	case "fail_if_no_path":
		t.queues = false
	case "fail_path " + t.path:
		t.active = false
	case "reinstate_path " + t.path:
		t.active = true
	default:
		return errArg
	}
	return nil
}

func (f *fake) Status(name string) (d dm.Device, out dm.Target, err error) {
	d, err = f.on("status", name, func(d *fakeDevice) error {
		if t := d.live; t != nil {
			group, path := "E", "F 1"
			if t.active {
				group, path = "A", "A 0"
			}
			out = dm.Target{Sectors: t.sectors, Text: fmt.Sprintf("2 0 0 0 1 1 %s 0 1 1 %s %s %d", group, t.path, path, t.below)}
		}
		return nil
	})
	return d, out, err
}

func (f *fake) Table(name string) (d dm.Device, out dm.Target, err error) {
	d, err = f.on("table", name, func(d *fakeDevice) error {
		if t := d.live; t != nil {
			features := "2 queue_mode bio"
			if t.queues && !d.Suspended { // a suspend takes the flag away and keeps it for the resume
				features = "3 queue_if_no_path queue_mode bio"
			}
			out = dm.Target{Sectors: t.sectors, Text: features + " 0 1 1 queue-length 0 1 1 " + t.path + " 1"}
		}
		return nil
	})
	return d, out, err
}

func (f *fake) List() (list []dm.Entry, err error) {
	err = f.call("list", "", func() error {
		for _, d := range f.devices {
			list = append(list, dm.Entry{Name: d.Name, Major: d.Major, Minor: d.Minor, Events: d.Events})
		}
		return nil
	})
	return list, err
}

// breakAt arms the fault for the n-th of the calls to come.
func (f *fake) breakAt(n int, kind faultKind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.fault, f.kind = nil, n, kind
}

// mend ends the fault and says whether it came to that.
func (f *fake) mend() (hit bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hit = len(f.calls) >= f.fault
	f.calls, f.fault = nil, 0
	return hit
}

// changes are the calls so far that do not just look.
func (f *fake) changes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.calls), func(op string) bool {
		return slices.Contains([]string{"status", "table", "get", "list"}, op)
	})
}

// look is a device without the way there.
func (f *fake) look(name string) fakeDevice {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *f.devices[name]
}

// wantWell fails unless the table is active, queueing, not suspended, on the
// path wanted and of its size, with no table beside it.
func (f *fake) wantWell(t *testing.T, name string, p Path) {
	t.Helper()
	d := f.look(name)
	want := fakeTable{path: p.dev(), sectors: uint64(p.SizeBytes / sectorSize), active: true, queues: true}
	if d.live == nil || *d.live != want || d.fresh != nil || d.Suspended {
		t.Fatalf("%+v with table %+v and new table %+v, want %+v", d.Device, d.live, d.fresh, want)
	}
}

func dumpCalls(f *fake) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.calls, ", ")
}
