//go:build kernel

package dm_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/dm"
)

const sectors = 8 << 20 / 512

var modules sync.Once

// open returns a client of the real device mapper. Without root or the modules
// the test fails: it was asked for by its build tag.
func open(t *testing.T) *dm.Client {
	t.Helper()
	modules.Do(func() { run(t, "modprobe", "-a", "loop", "dm-mod", "dm-multipath", "dm-queue-length") })
	c, err := dm.Open("/dev")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// loop is a block device over a sparse file, as MAJOR:MINOR.
func loop(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, sectors*512); err != nil {
		t.Fatal(err)
	}
	node := run(t, "losetup", "--find", "--show", file)
	t.Cleanup(func() { run(t, "losetup", "--detach", node) })
	var st unix.Stat_t
	if err := unix.Stat(node, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// create makes a device that is gone when the test ends.
func create(t *testing.T, c *dm.Client, name string) dm.Device {
	t.Helper()
	d, err := c.Create(name, "TEST-"+name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(name); err != nil && !errors.Is(err, dm.ErrNotFound) {
			t.Errorf("clean up: %v", err)
		}
	})
	return d
}

func linear(below string) dm.Table {
	return dm.Table{Sectors: sectors, Target: "linear", Params: below + " 0"}
}

func multipath(below string) dm.Table {
	return dm.Table{Sectors: sectors, Target: "multipath", Params: "3 queue_if_no_path queue_mode bio 0 1 1 queue-length 0 1 1 " + below + " 1"}
}

// use loads a table and puts it to use.
func use(t *testing.T, c *dm.Client, name string, table dm.Table) dm.Device {
	t.Helper()
	if err := c.Load(name, table); err != nil {
		t.Fatal(err)
	}
	d, err := c.Resume(name, dm.NoScan)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// get looks at a device and leaves out its number, which is the kernel's choice.
func get(t *testing.T, c *dm.Client, name string) dm.Device {
	t.Helper()
	d, err := c.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	d.Major, d.Minor, d.Events = 0, 0, 0
	return d
}

func listed(t *testing.T, c *dm.Client) map[string]dm.Entry {
	t.Helper()
	list, err := c.List()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]dm.Entry{}
	for _, e := range list {
		out[e.Name] = e
	}
	return out
}

func TestKernelRoundTrip(t *testing.T) {
	c, below := open(t), loop(t)
	const name = "dmtest-round-trip"
	made := create(t, c, name)
	base := dm.Device{Name: name, UUID: "TEST-" + name}
	expect := func(step string, want dm.Device) {
		t.Helper()
		if got := get(t, c, name); got != want {
			t.Fatalf("%s: got %+v, want %+v", step, got, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("created", base)
	must(c.Load(name, linear(below)))
	expect("loaded", with(base, func(d *dm.Device) { d.HasNewTable = true }))
	must(c.Clear(name))
	expect("cleared", base)
	d := use(t, c, name, linear(below))
	expect("in use", with(base, func(d *dm.Device) { d.HasTable = true }))
	if d.Minor != made.Minor || d.Major != made.Major {
		t.Errorf("the number changed: %+v, %+v", made, d)
	}
	if size := run(t, "cat", "/sys/block/"+d.Disk()+"/size"); size != fmt.Sprint(sectors) {
		t.Errorf("size %s", size)
	}
	_, table, err := c.Table(name)
	if want := (dm.Target{Sectors: sectors, Type: "linear", Text: below + " 0"}); err != nil || table != want {
		t.Errorf("table: got %+v, %v, want %+v", table, err, want)
	}
	must(c.Suspend(name))
	must(c.Suspend(name)) // again is no error
	expect("suspended", with(base, func(d *dm.Device) { d.HasTable, d.Suspended = true, true }))
	_, err = c.Resume(name, dm.NoScan)
	must(err)
	if e := listed(t, c)[name]; e.Major != d.Major || e.Minor != d.Minor {
		t.Errorf("listed as %+v, want %+v", e, d)
	}
	readOnly := linear(below)
	readOnly.ReadOnly = true
	use(t, c, name, readOnly)
	expect("read-only", with(base, func(d *dm.Device) { d.HasTable, d.ReadOnly = true, true }))
	must(c.Remove(name))
	if e, ok := listed(t, c)[name]; ok {
		t.Errorf("listed after its removal: %+v", e)
	}
}

func with(d dm.Device, change func(*dm.Device)) dm.Device { change(&d); return d }

// The names have every length modulo 8: the kernel pads them.
func TestKernelList(t *testing.T) {
	c := open(t)
	if list := listed(t, c); len(list) != 0 {
		t.Fatalf("the machine is not empty: %v", list)
	}
	want := map[string]dm.Device{}
	for i := range 9 {
		name := "dmtest-" + strings.Repeat("n", i+1)
		want[name] = create(t, c, name)
		list := listed(t, c)
		if len(list) != len(want) {
			t.Fatalf("%d of %d are listed", len(list), len(want))
		}
		for name, d := range want {
			if e := list[name]; e.Major != d.Major || e.Minor != d.Minor || e.Events != d.Events {
				t.Errorf("%s: listed as %+v, made as %+v", name, e, d)
			}
		}
	}
}

// A list that is kept while nothing happens is that of a client that has none to
// keep, after whatever happens.
func TestKernelListFollows(t *testing.T) {
	c, below := open(t), loop(t)
	const name, other = "dmtest-follows", "dmtest-follows-2"
	follow := func(step string) {
		t.Helper()
		fresh := open(t)
		// The kernel counts an event before it wakes those who poll. A list that is
		// kept for good would be old for much longer than this (listAge).
		eventually(t, step+": the list is not that of a new client", func() bool {
			return maps.Equal(listed(t, c), listed(t, fresh))
		})
	}
	message := func(text string) {
		t.Helper()
		before := listed(t, open(t))[name].Events
		if err := c.Message(name, text); err != nil {
			t.Fatal(err)
		}
		eventually(t, text+": no event", func() bool { return listed(t, open(t))[name].Events != before })
		follow(text)
	}
	follow("before")
	create(t, c, name)
	follow("created")
	use(t, c, name, multipath(below))
	follow("in use")
	for range 3 {
		message("fail_path " + below)
		message("reinstate_path " + below)
	}
	create(t, open(t), other)
	follow("created by another")
	if err := open(t).Remove(other); err != nil {
		t.Fatal(err)
	}
	follow("removed by another")
	if err := c.Remove(name); err != nil {
		t.Fatal(err)
	}
	follow("removed")
}

// eventually waits for what the kernel does in its own time, such as the event of
// a path.
func eventually(t *testing.T, otherwise string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(otherwise)
		}
	}
}

// A list that does not fit in the buffer is asked for again.
func TestKernelLongList(t *testing.T) {
	c := open(t)
	const n = 150
	for i := range n {
		create(t, c, fmt.Sprintf("dmtest-%s-%d", strings.Repeat("n", 110), i))
	}
	for range 2 {
		if list := listed(t, c); len(list) != n {
			t.Fatalf("%d of %d are listed", len(list), n)
		}
	}
	if _, err := c.Get(fmt.Sprintf("dmtest-%s-%d", strings.Repeat("n", 110), n-1)); err != nil {
		t.Errorf("with the buffer that grew: %v", err)
	}
}

// The number of events in the list is that of the device, and grows.
func TestKernelEvents(t *testing.T) {
	c, below := open(t), loop(t)
	const name = "dmtest-events"
	create(t, c, name)
	use(t, c, name, multipath(below))
	before := listed(t, c)[name].Events
	if err := c.Message(name, "fail_path "+below); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a path that failed is no event", func() bool { return listed(t, c)[name].Events != before })
	d, status, err := c.Status(name)
	if err != nil || d.Events != listed(t, c)[name].Events {
		t.Errorf("%+v, %v, listed %+v", d, err, listed(t, c)[name])
	}
	if want := below + " F 1 0"; !strings.HasSuffix(status.Text, want) {
		t.Errorf("status %q, want one that ends in %q", status.Text, want)
	}
}

func TestKernelNotFound(t *testing.T) {
	c := open(t)
	const name = "dmtest-missing"
	_, get := c.Get(name)
	_, resume := c.Resume(name, dm.NoScan)
	_, _, status := c.Status(name)
	for op, err := range map[string]error{
		"get": get, "resume": resume, "status": status, "remove": c.Remove(name), "suspend": c.Suspend(name),
		"clear": c.Clear(name), "message": c.Message(name, "x"), "load": c.Load(name, dm.Table{Sectors: 8, Target: "error"}),
	} {
		if !errors.Is(err, dm.ErrNotFound) {
			t.Errorf("%s: got %v", op, err)
		}
	}
}

func TestKernelExists(t *testing.T) {
	c := open(t)
	create(t, c, "dmtest-exists")
	_, name := c.Create("dmtest-exists", "TEST-other")
	_, uuid := c.Create("dmtest-other", "TEST-dmtest-exists")
	for what, err := range map[string]error{"name": name, "UUID": uuid} {
		if !errors.Is(err, dm.ErrExists) {
			t.Errorf("the same %s: got %v", what, err)
		}
	}
}

func TestKernelBusy(t *testing.T) {
	c, below := open(t), loop(t)
	const name = "dmtest-busy"
	create(t, c, name)
	d := use(t, c, name, linear(below))
	f, err := os.Open(filepath.Join("/dev", d.Disk()))
	if err != nil {
		t.Fatal(err)
	}
	if n := get(t, c, name).OpenCount; n != 1 {
		t.Errorf("open count %d", n)
	}
	if err := c.Remove(name); !errors.Is(err, dm.ErrBusy) {
		t.Errorf("remove while open: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(name); err != nil {
		t.Errorf("remove after close: %v", err)
	}
}

// noDevice has a major number for local use that no module answers to.
const noDevice = "240:77"

// A table that cannot be loaded leaves the one in use alone.
func TestKernelBadTable(t *testing.T) {
	c, below := open(t), loop(t)
	const name = "dmtest-bad"
	create(t, c, name)
	use(t, c, name, linear(below))
	for what, table := range map[string]dm.Table{
		"no such target":      {Sectors: 8, Target: "dmtest-none"},
		"no such device":      linear(noDevice),
		"no parameters":       {Sectors: 8, Target: "linear"},
		"multipath, no below": multipath(noDevice),
	} {
		err := c.Load(name, table)
		t.Logf("%s: %v", what, err)
		// Nor may it look as if the device itself were missing.
		if err == nil || errors.Is(err, dm.ErrBusy) || errors.Is(err, dm.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
		if d := get(t, c, name); !d.HasTable || d.HasNewTable || d.Suspended {
			t.Errorf("%s: %+v", what, d)
		}
	}
	if !c.HasTarget("multipath") || c.HasTarget("dmtest-none") {
		t.Error("HasTarget: multipath is there and dmtest-none is not")
	}
}

// A table that is larger than what is below is found out by the resume, which
// leaves the device suspended, with the table it had.
func TestKernelTooLarge(t *testing.T) {
	c, below := open(t), loop(t)
	const name = "dmtest-large"
	create(t, c, name)
	use(t, c, name, linear(below))
	large := linear(below)
	large.Sectors += 8
	if err := c.Load(name, large); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resume(name, dm.NoScan); !errors.Is(err, unix.EINVAL) {
		t.Fatalf("got %v", err)
	}
	if d := get(t, c, name); !d.Suspended || !d.HasTable || d.HasNewTable {
		t.Errorf("%+v", d)
	}
	if d, err := c.Resume(name, dm.NoScan); err != nil || d.Suspended {
		t.Errorf("resumed: %+v, %v", d, err)
	}
	if _, table, err := c.Table(name); err != nil || table.Sectors != sectors {
		t.Errorf("%+v, %v", table, err)
	}
}

// A suspend waits for I/O that is under way and keeps nobody else waiting.
func TestKernelSuspendWaits(t *testing.T) {
	c, below := open(t), loop(t)
	const upper, lower = "dmtest-upper", "dmtest-lower"
	create(t, c, lower)
	d := use(t, c, lower, linear(below))
	create(t, c, upper)
	u := use(t, c, upper, linear(fmt.Sprintf("%d:%d", d.Major, d.Minor)))
	if err := c.Suspend(lower); err != nil {
		t.Fatal(err)
	}
	read, suspended := make(chan error, 1), make(chan error, 1)
	go func() { read <- readBlock(filepath.Join("/dev", u.Disk())) }()
	time.Sleep(100 * time.Millisecond) // until the read is under way
	go func() { suspended <- c.Suspend(upper) }()
	select {
	case err := <-read:
		t.Fatalf("read from a suspended device: %v", err)
	case err := <-suspended:
		t.Fatalf("suspended with I/O under way: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if _, _, err := c.Status(upper); err != nil {
		t.Error(err)
	}
	listed(t, c)
	if _, err := c.Resume(lower, dm.NoScan); err != nil {
		t.Fatal(err)
	}
	for what, ch := range map[string]chan error{"read": read, "suspend": suspended} {
		select {
		case err := <-ch:
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: did not end", what)
		}
	}
	if _, err := c.Resume(upper, dm.NoScan); err != nil {
		t.Error(err)
	}
}

// readBlock reads past the page cache.
func readBlock(node string) error {
	f, err := os.OpenFile(node, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	_, err = f.ReadAt(b, 0)
	return errors.Join(err, f.Close(), unix.Munmap(b))
}
