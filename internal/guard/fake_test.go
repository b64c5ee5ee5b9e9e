package guard

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/dm"
)

// fake is a device mapper in memory that knows the targets multipath, linear, delay
// and error, and moves I/O through them. Where it is odd, Linux 6.1 and 6.12 are:
// see the kernel tests.
type fake struct {
	mu      sync.Mutex
	devices map[string]*fakeDevice
	minor   uint32
	calls   []string

	dead, silent map[string]bool // disks that fail their I/O, and that do not answer
	noDelay      bool            // a kernel without that target
	interrupt    int             // how many suspends of a multipath target are interrupted
	ios          []*fakeIO

	// fault breaks the call of that number, counted from 1; 0 breaks none.
	fault int
	kind  faultKind
	// before is called with every call, without the lock.
	before func(op, name string)
}

// fakeIO is one that was sent to a table.
type fakeIO struct {
	table, at string // where it is: the table, or a leg
	end       string // the disk that has it, or "EIO"
	read      bool   // which a leg that stands by fails
	flush     bool   // which is taken for done where there is no write cache
	ahead     bool   // read-ahead, which a suspended device fails
}

// faultKind is how the call goes wrong: with or without its effect, and whether
// the process gets to do anything after it. A suspend that is cut undoes itself,
// but for what targets did in it.
type faultKind struct{ late, cut, deadly bool }

var faultKinds = []faultKind{{}, {late: true}, {deadly: true}, {late: true, deadly: true}, {cut: true, deadly: true}}

func (k faultKind) String() string {
	when, what := "before", "failed"
	switch {
	case k.late:
		when = "after"
	case k.cut:
		when = "in"
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

// fakeTable is a table of any target: path is of linear, passing of delay, the rest
// of multipath.
type fakeTable struct {
	target   string
	sectors  uint64
	readOnly bool
	path     string
	standsBy bool // keeps only what is written
	passing  bool
	paths    []string
	failed   [2]bool
	queues   bool
	current  int
}

var (
	errFault = errors.New("fault")
	errArg   = fmt.Errorf("fake: %w", unix.EINVAL)
)

func newFake() *fake {
	return &fake{devices: map[string]*fakeDevice{}, dead: map[string]bool{}, silent: map[string]bool{}}
}

// guards is a process that has just begun: it knows nothing but the kernel. The
// opener counts what is open.
func (f *fake) guards() (*Guards, *opener) {
	o := &opener{}
	g := New(f, "/dev")
	g.open = o.open
	return g, o
}

type opener struct{ opened, closed atomic.Int64 }

func (o *opener) open(Path) (io.Closer, error) { o.opened.Add(1); return o, nil }
func (o *opener) Close() error                 { o.closed.Add(1); return nil }

// proof is right while the device is held open.
func (o *opener) proof() error {
	if o.opened.Load() == o.closed.Load() {
		return errors.New("asked while the device is not held open")
	}
	return nil
}

func (o *opener) balanced() error {
	if opened, closed := o.opened.Load(), o.closed.Load(); opened != closed {
		return fmt.Errorf("opened %d times, closed %d times", opened, closed)
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
	if hit && f.kind.cut && op == "suspend" {
		f.presuspend(f.devices[name])
		f.flow()
	}
	if hit && !f.kind.late || f.fault != 0 && n > f.fault && f.kind.deadly {
		return errFault
	}
	err := effect()
	f.flow()
	if hit {
		return errFault
	}
	return err
}

// presuspend is what a target does as a suspend begins, and does not undo.
func (f *fake) presuspend(d *fakeDevice) {
	switch {
	case d.live == nil:
	case d.live.target == "multipath":
		d.live.queues = false
	case d.live.target == "delay":
		d.live.passing = true
	}
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

var tableForm = regexp.MustCompile(`^3 queue_if_no_path queue_mode bio 0 2 1 queue-length 0 1 1 ([0-9]+:[0-9]+) 1 queue-length 0 1 1 ([0-9]+:[0-9]+) 1$`)

func (f *fake) Load(name string, t dm.Table) error {
	_, err := f.on("load", name, func(d *fakeDevice) error {
		fresh := &fakeTable{target: t.Target, sectors: t.Sectors, readOnly: t.ReadOnly}
		switch m := tableForm.FindStringSubmatch(t.Params); {
		case t.Sectors == 0:
			return errArg
		case t.Target == "multipath" && m != nil && f.byNumber(m[1]) == nil && f.byNumber(m[2]) != nil:
			fresh.paths, fresh.queues = m[1:], true
		case t.Target == "linear" && strings.HasSuffix(t.Params, " 0"):
			fresh.path = strings.TrimSuffix(t.Params, " 0")
		case t.Target == "flakey" && strings.HasSuffix(t.Params, " 0 0 1 0") && !f.noDelay:
			fresh.path = strings.TrimSuffix(t.Params, " 0 0 1 0")
		case t.Target == "delay" && f.isDelay(t):
			fresh.path, _, _ = strings.Cut(t.Params, " ")
			fresh.standsBy = strings.Contains(t.Params, " 0 0 ")
		case t.Target != "error" || t.Params != "":
			return errArg
		}
		d.fresh = fresh
		return nil
	})
	return err
}

// isDelay says whether a table keeps everything, or what is written, and sends it to
// a wall.
func (f *fake) isDelay(t dm.Table) bool {
	wall, _, _ := strings.Cut(t.Params, " ")
	return f.isWall(wall, t.Sectors) && slices.Contains([]string{wall + " 0 4294967295", wall + " 0 0 " + wall + " 0 4294967295 " + wall + " 0 1000"}, t.Params)
}

// isWall says whether a device fails what comes, and is large enough.
func (f *fake) isWall(number string, sectors uint64) bool {
	d := f.byNumber(number)
	return d != nil && d.live != nil && d.live.target == "flakey" && d.live.sectors >= sectors
}

func (f *fake) Clear(name string) error {
	_, err := f.on("clear", name, func(d *fakeDevice) error { d.fresh = nil; return nil })
	return err
}

func (f *fake) Suspend(name string) error {
	_, err := f.on("suspend", name, func(d *fakeDevice) error {
		if f.interrupt > 0 && d.live != nil && d.live.target == "multipath" {
			f.interrupt--
			f.presuspend(d)
			return fmt.Errorf("fake: %w", unix.EINTR)
		}
		if d.live != nil && (f.waits(d) || d.live.target == "delay" && f.wallSuspended(d.live) && f.under(d.Number()) > 0) {
			panic("a suspend of " + name + " waits for I/O that may never end")
		}
		if d.live != nil && d.live.target == "delay" {
			f.presuspend(d)
			f.flow()
		}
		d.Suspended = true
		return nil
	})
	return err
}

// waits says whether I/O is under way on a disk that is silent, below d.
func (f *fake) waits(d *fakeDevice) bool {
	if slices.ContainsFunc(d.live.paths, func(p string) bool { return f.silent[p] && f.under(p) > 0 }) {
		return true
	}
	below := []*fakeDevice{d}
	for _, p := range d.live.paths {
		below = append(below, f.byNumber(p))
	}
	return slices.ContainsFunc(below, func(x *fakeDevice) bool {
		return x != nil && x.live != nil && f.silent[x.live.path] && f.under(x.Number()) > 0
	})
}

func (f *fake) Resume(name string, flags dm.UdevFlags) (dm.Device, error) {
	return f.on("resume", name, func(d *fakeDevice) error {
		if flags != dm.NoScan {
			return errArg
		}
		if d.fresh != nil && !f.fits(d.fresh) {
			return errArg
		}
		if d.fresh != nil {
			d.live, d.fresh = d.fresh, nil
			d.ReadOnly = d.live.readOnly
		}
		if d.live == nil {
			return errArg
		}
		d.Suspended, d.live.passing = false, false
		return nil
	})
}

// fits says whether the leg below a table is large enough for it.
func (f *fake) fits(t *fakeTable) bool {
	for _, p := range t.paths {
		if d := f.byNumber(p); d != nil && (d.live == nil || d.live.sectors < t.sectors) {
			return false
		}
	}
	return true
}

func (f *fake) byNumber(number string) *fakeDevice {
	for _, d := range f.devices {
		if d.Number() == number {
			return d
		}
	}
	return nil
}

func (f *fake) Remove(name string) error {
	_, err := f.on("remove", name, func(d *fakeDevice) error {
		above := slices.ContainsFunc(slices.Collect(maps.Values(f.devices)), func(x *fakeDevice) bool {
			return x.isOver(d.Number())
		})
		if d.OpenCount > 0 || above {
			return fmt.Errorf("fake: %w", dm.ErrBusy)
		}
		delete(f.devices, name)
		return nil
	})
	return err
}

func (d *fakeDevice) isOver(number string) bool {
	return slices.ContainsFunc([]*fakeTable{d.live, d.fresh}, func(t *fakeTable) bool {
		return t != nil && (t.path == number || slices.Contains(t.paths, number))
	})
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
	verb, dev, _ := strings.Cut(text, " ")
	i := slices.Index(t.paths, dev)
	switch {
	case text == "switch_group 1":
		t.current = 0
	case text == "queue_if_no_path":
		t.queues = true
	case text == "fail_if_no_path":
		t.queues = false
	case verb == "fail_path" && i >= 0:
		t.failed[i] = true
	case verb == "reinstate_path" && i >= 0:
		t.failed[i] = false
	default:
		return errArg
	}
	return nil
}

// choose is the kernel's choice of a path: the one in use as long as it works, else
// the first that does; -1 for none.
func (t *fakeTable) choose() int {
	if !t.failed[t.current] {
		return t.current
	}
	t.current = max(0, slices.Index(t.failed[:len(t.paths)], false))
	if t.failed[t.current] {
		return -1
	}
	return t.current
}

func (f *fake) Status(name string) (d dm.Device, out dm.Target, err error) {
	d, err = f.on("status", name, func(d *fakeDevice) error {
		if t := d.live; t != nil {
			out = dm.Target{Sectors: t.sectors, Type: t.target, Text: f.status(t)}
		}
		return nil
	})
	return d, out, err
}

func (f *fake) status(t *fakeTable) string {
	text := fmt.Sprintf("2 0 0 0 %d %d", len(t.paths), t.current+1)
	for i, p := range t.paths {
		path := p + " A 0 "
		if t.failed[i] {
			path = p + " F 1 "
		}
		text += " E 0 1 1 " + path + strconv.Itoa(f.under(p))
	}
	return text
}

// under counts what was sent through a path and is not done.
func (f *fake) under(path string) (n int) {
	for _, x := range f.ios {
		if x.at == f.placeOf(path) && x.end == "" {
			n++
		}
	}
	return n
}

// placeOf is where I/O is that was sent through a path: in the leg, or on a disk.
func (f *fake) placeOf(path string) string {
	if d := f.byNumber(path); d != nil {
		return d.Name
	}
	return onADisk + path
}

const onADisk = "disk "

func (f *fake) Table(name string) (d dm.Device, out dm.Target, err error) {
	d, err = f.on("table", name, func(d *fakeDevice) error {
		t := d.live
		if t == nil {
			return nil
		}
		out = dm.Target{Sectors: t.sectors, Type: t.target}
		switch t.target {
		case "linear":
			out.Text = t.path + " 0"
		case "flakey":
			out.Text = t.path + " 0 0 1 0"
		case "delay":
			out.Text = t.delayText()
		case "multipath":
			out.Text = fmt.Sprintf("2 queue_mode bio 0 %d 1", len(t.paths))
			if t.queues && !d.Suspended { // a suspend takes the flag away and keeps it for the resume
				out.Text = fmt.Sprintf("3 queue_if_no_path queue_mode bio 0 %d 1", len(t.paths))
			}
		}
		return nil
	})
	return d, out, err
}

func (t *fakeTable) delayText() string {
	if t.standsBy {
		return t.path + " 0 0 " + t.path + " 0 4294967295 " + t.path + " 0 1000"
	}
	return t.path + " 0 4294967295"
}

func (f *fake) Loaded(name string) (d dm.Device, out dm.Target, err error) {
	d, err = f.on("loaded", name, func(d *fakeDevice) error {
		if t := d.fresh; t != nil {
			out = dm.Target{Sectors: t.sectors, Type: t.target, Text: t.path + " 0"}
			if t.target == "delay" {
				out.Text = t.delayText()
			}
		}
		return nil
	})
	return d, out, err
}

func (f *fake) HasTarget(name string) bool { return name == "multipath" || !f.noDelay }

func (f *fake) List() (list []dm.Entry, err error) {
	err = f.call("list", "", func() error {
		for _, d := range f.devices {
			list = append(list, dm.Entry{Name: d.Name, Major: d.Major, Minor: d.Minor, Events: d.Events})
		}
		return nil
	})
	return list, err
}

// send sends I/O to a table.
func (f *fake) send(name string) *fakeIO { return f.sendIO(&fakeIO{table: name, at: name}) }

// readAhead sends what is no more than that.
func (f *fake) readAhead(name string) *fakeIO {
	return f.sendIO(&fakeIO{table: name, at: name, read: true, ahead: true})
}

// flush sends one, which carries no data.
func (f *fake) flush(name string) *fakeIO {
	return f.sendIO(&fakeIO{table: name, at: name, flush: true})
}

func (f *fake) sendIO(x *fakeIO) *fakeIO {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ios = append(f.ios, x)
	f.flow()
	return x
}

// set changes what becomes of I/O.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.flow()
}

// flow moves all I/O as far as it gets.
func (f *fake) flow() {
	for moved := true; moved; {
		moved = false
		for _, x := range f.ios {
			moved = f.move(x) || moved
		}
	}
}

func (f *fake) move(x *fakeIO) bool {
	d, table := f.devices[x.at], f.devices[x.table]
	if on, ok := strings.CutPrefix(x.at, onADisk); ok && x.end == "" && !f.silent[on] {
		if f.dead[on] {
			x.failed(table.live, on)
		} else {
			x.end = on
		}
		return true
	}
	switch {
	case x.end != "" || d == nil || d.live == nil:
		return false
	case x.at != x.table && d.Suspended && x.ahead:
		x.failed(table.live, d.Number())
		return true
	case d.Suspended:
		return false
	case x.at != x.table:
		return f.moveInLeg(x, d.live, table.live, d.Number())
	}
	switch i := d.live.choose(); {
	case i >= 0 && x.flush && f.hasNoCache(d.live.paths[i]):
		x.end = "done"
	case i >= 0:
		x.at = f.placeOf(d.live.paths[i])
	case !d.live.queues:
		x.end = "EIO"
	default:
		return false
	}
	return true
}

func (f *fake) hasNoCache(path string) bool {
	d := f.byNumber(path)
	return d != nil && d.live != nil && d.live.target == "error"
}

// wallSuspended says whether what a leg gives back waits.
func (f *fake) wallSuspended(leg *fakeTable) bool {
	wall := f.byNumber(leg.path)
	return wall != nil && wall.Suspended
}

func (f *fake) moveInLeg(x *fakeIO, leg, above *fakeTable, number string) bool {
	switch {
	case x.flush && leg.target == "error":
		x.end = "done" // it was kept by a leg that was suspended
	case leg.target == "delay" && f.wallSuspended(leg):
		return false
	case leg.target == "linear" && f.silent[leg.path] || leg.target == "delay" && !leg.passing && (!leg.standsBy || !x.read):
		return false
	case leg.target == "linear" && !f.dead[leg.path]:
		x.end = leg.path
	default:
		x.failed(above, number)
	}
	return true
}

// failed takes I/O back to its table, with the path failed that it came from.
func (x *fakeIO) failed(table *fakeTable, leg string) {
	x.at = x.table
	if i := slices.Index(table.paths, leg); i >= 0 {
		table.failed[i] = true
	}
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
		return slices.Contains([]string{"status", "table", "loaded", "get", "list"}, op)
	})
}

// look is a device without the way there.
func (f *fake) look(name string) fakeDevice {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *f.devices[name]
}

// wantWell fails unless the volume is as it has to be over p: the table queueing,
// of its size, in use over the disk itself, and with a second path through the leg,
// that stands by; nothing suspended, and nothing loaded beside but what waits, into
// the leg. Where the kernel has no such targets the second path has failed, and the
// leg is linear on p.
func (f *fake) wantWell(t *testing.T, name string, p Path) {
	t.Helper()
	top, leg := f.look(name), f.look(name+legSuffix)
	if top.live == nil || top.Suspended || top.fresh != nil || !top.live.queues || top.live.sectors != p.sectors() ||
		!slices.Equal(top.live.paths, []string{p.dev(), leg.Number()}) || top.live.failed != [2]bool{false, f.noDelay} || top.live.current != 0 && !f.noDelay {
		t.Fatalf("%s, want it well on %s", f.text(name), p.dev())
	}
	if wall := f.devices[name+wallSuffix]; f.noDelay != (wall == nil) || wall != nil && (wall.Suspended || wall.fresh != nil || wall.live.path != p.dev() || wall.live.sectors != p.sectors()) {
		t.Fatalf("%s, want the wall on %s", f.text(name), p.dev())
	}
	if leg.live == nil || leg.Suspended || leg.live.sectors != p.sectors() || leg.live.standsBy == f.noDelay || f.noDelay && leg.live.path != p.dev() {
		t.Fatalf("%s, want the leg over %s", f.text(name), p.dev())
	}
	if ready := leg.fresh != nil; ready && leg.fresh.target != "delay" || ready == f.noDelay {
		t.Fatalf("%s, want what waits to be loaded into the leg: %v", f.text(name), !f.noDelay)
	}
}

// text is all about the devices of a volume.
func (f *fake) text(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := name + ":"
	for _, suffix := range []string{"", legSuffix, wallSuffix} {
		d := f.devices[name+suffix]
		if d == nil {
			continue
		}
		out += fmt.Sprintf(" [%s%s suspended=%v live=%+v", suffix, d.Number(), d.Suspended, d.live)
		if d.fresh != nil {
			out += fmt.Sprintf(" fresh=%+v", d.fresh)
		}
		out += "]"
	}
	return out
}

func dumpCalls(f *fake) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.calls, ", ")
}
