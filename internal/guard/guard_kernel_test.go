//go:build kernel

package guard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/dm"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const (
	fileSize  = 8 << 20
	blockSize = 4096
)

// bench is a volume's table on the real kernel.
type bench struct {
	t    *testing.T
	c    *dm.Client
	g    *Guards
	name string
}

var modules sync.Once

func loadModules(t *testing.T) {
	t.Helper()
	modules.Do(func() { run(t, "modprobe", "-a", "loop", "dm-mod", "dm-multipath", "dm-queue-length", "dm-delay") })
}

// newBench fails without root or the modules: the test was asked for by its
// build tag.
func newBench(t *testing.T) *bench {
	t.Helper()
	loadModules(t)
	c, err := dm.Open("/dev")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, c: c, g: New(c, "/dev"), name: Name(t.Name(), 1)}
	t.Cleanup(func() {
		_ = b.g.GiveUp(b.name)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.g.Remove(ctx, b.name); err != nil {
			t.Errorf("clean up: %v", err)
		}
		_ = c.Close()
	})
	return b
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// sparse makes a file for loop devices.
func sparse(t *testing.T, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	return file
}

// loop attaches one more device to a file: what came back under another name.
func loop(t *testing.T, file string) Path {
	t.Helper()
	node, err := attach(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { detach(t, node) })
	return pathOf(t, node)
}

func attach(file string) (node string, err error) {
	ctl, err := os.Open("/dev/loop-control")
	if err != nil {
		return "", err
	}
	defer ctl.Close()
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", err
	}
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer backing.Close()
	dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer dev.Close()
	return dev.Name(), unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{Fd: uint32(backing.Fd())})
}

// detach frees a device as soon as nothing has it open.
func detach(t *testing.T, node string) {
	t.Helper()
	f, err := os.Open(node)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
		t.Error(err)
	}
}

func pathOf(t *testing.T, node string) Path {
	t.Helper()
	f, err := os.Open(node)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	var st unix.Stat_t
	if err := errors.Join(err, unix.Fstat(int(f.Fd()), &st)); err != nil {
		t.Fatal(err)
	}
	return Path{Disk: filepath.Base(node), Node: node, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev), SizeBytes: size}
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) ensure(p Path) Device {
	b.t.Helper()
	d, err := b.g.Ensure(context.Background(), b.name, p, false, right)
	b.must(err)
	return d
}

func (b *bench) feed(p Path) {
	b.t.Helper()
	b.must(b.g.Feed(b.name, p, false, right))
}

func (b *bench) state() State {
	b.t.Helper()
	s, err := b.g.State(b.name)
	b.must(err)
	return s
}

// healthy is what every repair has to end in.
func (b *bench) healthy(p Path) {
	b.t.Helper()
	s := b.state()
	if !s.Whole(p) {
		b.t.Fatalf("not well on %s: %+v", p.dev(), s)
	}
	size, err := os.ReadFile("/sys/block/" + s.Disk + "/size")
	b.must(err)
	if got := strings.TrimSpace(string(size)); got != fmt.Sprint(p.SizeBytes/sectorSize) {
		b.t.Fatalf("the device has %s sectors, what is below %d bytes", got, p.SizeBytes)
	}
}

// write writes one block past the page cache, in a goroutine of its own.
func (b *bench) write(d Device, block int64, fill byte) <-chan error {
	return begin(func() error { return writeBlock(d.Node, block, fill) })
}

// begin does something that may have to wait.
func begin(do func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	return done
}

func writeBlock(node string, block int64, fill byte) error {
	return pastCache(node, os.O_WRONLY, func(f *os.File, buf []byte) error {
		copy(buf, bytes.Repeat([]byte{fill}, blockSize))
		_, err := f.WriteAt(buf, block*blockSize)
		return err
	})
}

// pastCache reads or writes a device past the page cache, from memory that is
// aligned for that.
func pastCache(node string, flag int, do func(f *os.File, buf []byte) error) error {
	f, err := os.OpenFile(node, flag|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	buf, err := unix.Mmap(-1, 0, blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(do(f, buf), f.Close(), unix.Munmap(buf))
}

func (b *bench) waits(what string, done <-chan error) {
	b.t.Helper()
	select {
	case err := <-done:
		b.t.Fatalf("%s did not wait: %v", what, err)
	case <-time.After(300 * time.Millisecond):
	}
}

// ends returns how something ended that has to end by now.
func (b *bench) ends(what string, done <-chan error) error {
	b.t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		b.t.Fatalf("%s does not end; %+v", what, b.state())
		return nil
	}
}

// givenUp gives the table up, upon which what waits has to fail.
func (b *bench) givenUp(what string, done <-chan error) {
	b.t.Helper()
	b.must(b.g.GiveUp(b.name))
	if err := b.ends(what, done); !errors.Is(err, unix.EIO) {
		b.t.Fatalf("%s given up: %v", what, err)
	}
}

// holds says whether a block of a file holds what was written.
func (b *bench) holds(file string, block int64, fill byte) {
	b.t.Helper()
	f, err := os.Open(file)
	b.must(err)
	defer f.Close()
	got := make([]byte, blockSize)
	_, err = f.ReadAt(got, block*blockSize)
	b.must(err)
	if !bytes.Equal(got, bytes.Repeat([]byte{fill}, blockSize)) {
		b.t.Fatalf("block %d of %s begins with %x, want %x", block, file, got[:8], fill)
	}
}

// What waits in a table without a path keeps a processor busy; what is held does
// not.
func TestKernelHoldIsIdle(t *testing.T) {
	b := newBench(t)
	file := sparse(t, fileSize)
	p := loop(t, file)
	d := b.ensure(p)
	b.failPaths()
	w := b.write(d, 1, 'b')
	b.waits("write", w)
	busy := b.worker(time.Second)
	b.must(b.g.Hold(b.name))
	if s := b.state(); s.Suspended || !s.Queues || s.Active || !s.Holds {
		t.Errorf("held: %+v", s)
	}
	held := b.worker(time.Second)
	b.waits("held write", w)
	t.Logf("in a second the worker of the multipath target computed for %s without a path, and held for %s", busy, held)
	if busy < 200*time.Millisecond {
		t.Error("a table without a path costs nothing: there is no need for a leg to collect in any more")
	}
	if held > 50*time.Millisecond {
		t.Error("a table that is held is not idle")
	}
	late, read := b.write(d, 2, 'c'), b.readFile(d)
	b.waits("write to what is held", late)
	b.waits("read of what is held", read)
	if held = b.worker(time.Second); held > 50*time.Millisecond || !b.state().Holds {
		t.Errorf("read-ahead is not held: the worker computed for %s; %+v", held, b.state())
	}
	b.feed(p)
	b.healthy(p)
	b.must(b.ends("write", w))
	b.must(b.ends("late write", late))
	b.must(b.ends("read", read))
	b.holds(file, 1, 'b')
	b.holds(file, 2, 'c')

	b.must(b.g.Hold(b.name))
	w = b.write(d, 3, 'd')
	b.waits("write", w)
	b.givenUp("write", w)
}

// TestKernelStandsBy: where the disk of a table fails, what is written waits at no
// price, though nobody has held it. What is read and what is flushed is why it has to
// be held: that fails on the leg, whoever does it, and goes back to the table.
func TestKernelStandsBy(t *testing.T) {
	b := newBench(t)
	file := sparse(t, fileSize)
	disk := newSlow(t, file)
	other := loop(t, file)
	d := b.ensure(disk.path)
	b.healthy(disk.path)
	l, err := b.g.look(b.name)
	b.must(err)
	if err := b.ends("read of the leg", begin(func() error { return readBlock("/dev/" + l.leg.Disk()) })); !errors.Is(err, unix.EIO) {
		t.Errorf("a read of the leg: %v", err)
	}
	if err := b.ends("flush of the leg", begin(func() error { return flush("/dev/" + l.leg.Disk()) })); !errors.Is(err, unix.EIO) {
		t.Errorf("a flush of the leg: %v", err)
	}
	for i, next := range []Path{disk.path, other} {
		disk.lead("error")
		w := b.write(d, int64(i), 'b')
		b.waits("write", w)
		if s, cost := b.state(), b.worker(time.Second); cost > 50*time.Millisecond || s.Active || s.Holds || !s.Queues {
			t.Errorf("nobody holds it: the worker computed for %s in a second; %+v", cost, s)
		}
		r, flushed := begin(func() error { return readBlock(d.Node) }), begin(func() error { return flush(d.Node) })
		b.waits("read", r)
		b.waits("flush", flushed)
		cost := b.worker(time.Second)
		b.must(b.g.Hold(b.name))
		if held := b.worker(time.Second); cost < 200*time.Millisecond || held > 50*time.Millisecond || !b.state().Holds {
			t.Errorf("a read: the worker computed for %s, and held for %s; %+v", cost, held, b.state())
		}
		disk.lead("linear")
		b.feed(next)
		b.healthy(next)
		b.must(errors.Join(b.ends("write", w), b.ends("flush", flushed), b.ends("read", r)))
		b.holds(file, int64(i), 'b')
	}
}

// readBlock reads one block past the page cache.
func readBlock(node string) error {
	return pastCache(node, os.O_RDONLY, func(f *os.File, buf []byte) error {
		_, err := f.Read(buf)
		return err
	})
}

// readFile reads through the page cache, and so with read-ahead.
func (b *bench) readFile(d Device) <-chan error {
	return begin(func() error {
		f, err := os.Open(d.Node)
		if err != nil {
			return err
		}
		_, err = io.ReadFull(f, make([]byte, 64<<10))
		return errors.Join(err, f.Close())
	})
}

// TestKernelHoldWithoutDelay: where the kernel has no target that lets I/O wait, a
// suspended leg holds it.
func TestKernelHoldWithoutDelay(t *testing.T) {
	b := newBench(t)
	b.g.waits = false
	file := sparse(t, fileSize)
	p, other := loop(t, file), loop(t, file)
	d := b.ensure(p)
	b.must(b.g.Hold(b.name))
	w := b.write(d, 1, 'b')
	b.waits("write", w)
	read := b.readFile(d)
	b.waits("read", read)
	b.must(b.g.Hold(b.name))
	b.feed(other)
	b.healthy(other)
	b.must(b.ends("write", w))
	b.must(b.ends("read", read))
	b.holds(file, 1, 'b')
	b.must(b.g.Hold(b.name))
	w = b.write(d, 2, 'c')
	b.waits("write", w)
	b.givenUp("write", w)
}

// TestKernelFlushWaits: the kernel takes a flush to a device without a write cache
// for done, and takes the mark off a write that must not stay in one. So a leg that
// waits has what the disk has.
func TestKernelFlushWaits(t *testing.T) {
	b := newBench(t)
	file := sparse(t, fileSize)
	p, other := loop(t, file), loop(t, file)
	d := b.ensure(p)
	cache := func(disk string) string {
		value, err := os.ReadFile("/sys/block/" + disk + "/queue/write_cache")
		b.must(err)
		return strings.TrimSpace(string(value))
	}
	if got := cache(p.Disk); got != "write back" {
		t.Fatalf("the disk has no write cache, so this shows nothing: %q", got)
	}
	for _, next := range []Path{p, other} {
		b.must(b.g.Hold(b.name))
		l, err := b.g.look(b.name)
		b.must(err)
		if got := cache(l.leg.Disk()); got != "write back" || !l.leg.waits {
			t.Errorf("the leg that waits: %q, %+v", got, l.leg)
		}
		done := begin(func() error { return flush(d.Node) })
		b.waits("flush", done)
		b.feed(next)
		b.must(b.ends("flush", done))
		b.healthy(next)
	}
	b.must(b.g.Hold(b.name))
	done := begin(func() error { return flush(d.Node) })
	b.waits("flush", done)
	b.givenUp("flush", done)
}

// flush sends a flush and nothing else.
func flush(node string) error {
	f, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// failPaths is what errors of the disk do.
func (b *bench) failPaths() {
	b.t.Helper()
	l, err := b.g.look(b.name)
	b.must(err)
	for _, p := range l.paths {
		b.must(b.c.Message(b.name, "fail_path "+p.dev))
	}
}

// worker is how long the workers of multipath targets compute within d.
func (b *bench) worker(d time.Duration) time.Duration {
	b.t.Helper()
	before := b.workers()
	time.Sleep(d)
	var sum time.Duration
	for pid, after := range b.workers() {
		sum += after - before[pid]
	}
	return sum
}

// workers are the kernel's worker threads and how long each has computed. That
// they work for the multipath target is in their name only while they do.
func (b *bench) workers() map[string]time.Duration {
	b.t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	b.must(err)
	out := map[string]time.Duration{}
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil || !bytes.Contains(text, []byte("(kworker/")) {
			continue
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		ticks, err := strconv.Atoi(strings.Fields(rest)[12]) // of 10 ms, in the kernel (proc(5))
		b.must(err)
		out[stat] = time.Duration(ticks) * 10 * time.Millisecond
	}
	return out
}

// What was sent below stays there while the table is held, and also while another
// disk takes what comes; once it ends, the table is put over that.
func TestKernelBusyBelow(t *testing.T) {
	file := sparse(t, fileSize)
	slow := newSlow(t, file)
	b := newBench(t)
	other := loop(t, file)
	d := b.ensure(slow.path)
	slow.stop()
	stuck := b.write(d, 1, 'b')
	b.waits("write", stuck)
	b.must(b.g.Hold(b.name))
	if s := b.state(); !s.Holds || s.Active {
		t.Errorf("held, one write below: %+v", s)
	}
	w := b.write(d, 2, 'c')
	b.waits("held write", w)
	b.feed(other)
	b.must(b.ends("held write", w))
	b.holds(file, 2, 'c')
	if s := b.state(); !s.On(other) || s.Whole(other) {
		t.Errorf("past a disk that is stuck: %+v", s)
	}
	b.waits("write below", stuck)
	slow.goOn()
	b.must(b.ends("write below", stuck))
	b.holds(file, 1, 'b')
	if s := b.state(); s.Whole(other) {
		t.Errorf("nobody is told that the disk that was left is free: %+v", s)
	}
	b.feed(other)
	b.healthy(other)
	b.free(slow.path)
}

// free fails if something has a disk that was swapped for another.
func (b *bench) free(p Path) {
	b.t.Helper()
	f, err := os.OpenFile(p.Node, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		b.t.Fatalf("%s is still claimed: %v", p.Node, err)
	}
	b.must(f.Close())
}

// slow is a disk that can be made to keep what it is given.
type slow struct {
	t       *testing.T
	c       *dm.Client
	name    string
	path    Path
	below   string // parameters of its linear table
	sectors uint64
}

func newSlow(t *testing.T, file string) *slow {
	t.Helper()
	return namedSlow(t, "slow", file)
}

// namedSlow leaves a note of what is below for other processes.
func namedSlow(t *testing.T, name, file string) *slow {
	t.Helper()
	loadModules(t)
	below := loop(t, file)
	c, err := dm.Open("/dev")
	if err != nil {
		t.Fatal(err)
	}
	s := &slow{t: t, c: c, name: name, below: below.dev() + " 0", sectors: below.sectors()}
	d, err := c.Create(s.name, "")
	if err := errors.Join(err, os.WriteFile("/run/"+name, []byte(s.below), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := c.Load(s.name, dm.Table{Sectors: s.sectors, Target: "linear", Params: s.below}); err != nil {
		t.Fatal(err)
	}
	s.goOn()
	t.Cleanup(func() {
		s.goOn()
		if err := errors.Join(c.Remove(s.name), c.Close(), os.Remove("/run/"+name)); err != nil {
			t.Error(err)
		}
	})
	s.path = pathOf(t, "/dev/"+d.Disk())
	return s
}

func (s *slow) stop() {
	if err := s.c.Suspend(s.name); err != nil {
		s.t.Error(err)
	}
}

func (s *slow) goOn() {
	if _, err := s.c.Resume(s.name, dm.NoScan); err != nil {
		s.t.Error(err)
	}
}

func TestKernelHold(t *testing.T) {
	b := newBench(t)
	file := sparse(t, fileSize)
	p := loop(t, file)
	d := b.ensure(p)
	b.healthy(p)
	if again := b.ensure(p); again != d {
		t.Errorf("ensured again: %+v, was %+v", again, d)
	}
	b.must(b.ends("write", b.write(d, 0, 'a')))
	b.holds(file, 0, 'a')

	b.must(b.g.Hold(b.name))
	if s := b.state(); s.Active || !s.Holds || !s.Queues || s.Suspended || s.Path != p.dev() {
		t.Errorf("held: %+v", s)
	}
	w := b.write(d, 1, 'b')
	b.waits("write", w)
	b.must(b.g.Hold(b.name)) // again changes nothing
	b.waits("write", w)
	b.feed(p)
	b.must(b.ends("write", w))
	b.holds(file, 1, 'b')
	b.healthy(p)
}

func TestKernelSwap(t *testing.T) {
	b := newBench(t)
	file := sparse(t, fileSize)
	old, fresh := loop(t, file), loop(t, file)
	d := b.ensure(old)
	b.must(b.g.Hold(b.name))
	w := b.write(d, 2, 'c')
	b.waits("write", w)
	b.feed(fresh)
	b.must(b.ends("write", w))
	b.holds(file, 2, 'c')
	b.healthy(fresh)
	// Nothing has the old one any more, so that it can go and its number come back.
	b.free(old)
	if _, err := os.OpenFile(fresh.Node, os.O_RDWR|unix.O_EXCL, 0); !errors.Is(err, unix.EBUSY) {
		t.Errorf("the new device is not claimed: %v", err)
	}
	b.must(b.ends("write", b.write(d, 3, 'd')))
	b.holds(file, 3, 'd')
}

// A mounted file system does not notice.
func TestKernelFilesystem(t *testing.T) {
	b := newBench(t)
	file, dir := sparse(t, 64<<20), t.TempDir()
	old, fresh := loop(t, file), loop(t, file)
	d := b.ensure(old)
	run(t, "mkfs.ext4", "-q", d.Node)
	run(t, "mount", d.Node, dir)
	mounted := true
	defer func() {
		if mounted {
			run(t, "umount", dir)
		}
	}()
	b.must(b.g.Hold(b.name))
	done := begin(func() error { return writeSynced(filepath.Join(dir, "x")) })
	b.waits("fsync", done)
	b.feed(fresh)
	b.must(b.ends("fsync", done))
	run(t, "umount", dir)
	mounted = false
	run(t, "e2fsck", "-fn", d.Node)
	b.healthy(fresh)
}

func writeSynced(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = f.WriteString("x")
	return errors.Join(err, f.Sync(), f.Close())
}

func TestKernelGiveUp(t *testing.T) {
	b := newBench(t)
	file := sparse(t, fileSize)
	p := loop(t, file)
	d := b.ensure(p)
	b.must(b.g.Hold(b.name))
	w := b.write(d, 0, 'a')
	b.waits("write", w)

	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := b.g.Remove(ctx, b.name); !errors.Is(err, volume.ErrPending) {
		t.Fatalf("remove while open: %v", err)
	}
	b.givenUp("write", w)
	if s := b.state(); s.Queues || s.Active || s.Suspended {
		t.Errorf("given up: %+v", s)
	}
	b.must(b.g.GiveUp(b.name)) // again changes nothing
	if err := b.ends("write", b.write(d, 0, 'a')); !errors.Is(err, unix.EIO) {
		t.Errorf("a new write after giving up: %v", err)
	}
	b.must(b.g.Remove(context.Background(), b.name))
	b.must(b.g.Remove(context.Background(), b.name))
	b.must(b.g.GiveUp(b.name))
	if _, err := b.g.State(b.name); !errors.Is(err, dm.ErrNotFound) {
		t.Errorf("state after removal: %v", err)
	}
	if list, err := b.g.List(); err != nil || len(list) != 0 {
		t.Errorf("list after removal: %v, %v", list, err)
	}
}

// Giving up ends with Feed, on the same path and on another.
func TestKernelFeedAfterGiveUp(t *testing.T) {
	b := newBench(t)
	file := sparse(t, fileSize)
	p, other := loop(t, file), loop(t, file)
	d := b.ensure(p)
	for i, next := range []Path{p, other, p} {
		b.must(b.g.GiveUp(b.name))
		b.feed(next)
		b.healthy(next)
		b.must(b.ends("write", b.write(d, int64(i), 'a'+byte(i))))
		b.holds(file, int64(i), 'a'+byte(i))
	}
}

func TestKernelGrowth(t *testing.T) {
	b := newBench(t)
	file := sparse(t, fileSize)
	small := loop(t, file)
	d := b.ensure(small)
	b.must(os.Truncate(file, 2*fileSize))
	large := loop(t, file)
	if large.SizeBytes != 2*fileSize {
		t.Fatalf("the second device has %d bytes", large.SizeBytes)
	}
	f, err := os.Open(d.Node) // somebody has it open all the time
	b.must(err)
	defer f.Close()
	b.feed(large)
	b.healthy(large)
	const last = 2*fileSize/blockSize - 1
	b.must(b.ends("write", b.write(d, last, 'z')))
	b.holds(file, last, 'z')
	// Growth of the device that is below already.
	b.must(os.Truncate(file, 3*fileSize))
	run(t, "losetup", "--set-capacity", large.Node)
	large.SizeBytes = 3 * fileSize
	b.feed(large)
	b.healthy(large)
}

// A leg that is larger than what is below is refused when it is put to use; the
// one before stays, suspended, and the next Feed goes on.
func TestKernelResumeFails(t *testing.T) {
	b := newBench(t)
	file := sparse(t, fileSize)
	p, other := loop(t, file), loop(t, file)
	d := b.ensure(p)
	b.must(b.g.Hold(b.name))
	w := b.write(d, 1, 'r')
	b.waits("write", w)
	wrong := other
	wrong.SizeBytes += 1 << 20
	if err := b.g.Feed(b.name, wrong, false, right); !errors.Is(err, unix.EINVAL) {
		t.Fatalf("got %v", err)
	}
	b.waits("write", w)
	if s := b.state(); s.Path != p.dev() || s.Active {
		t.Errorf("%+v", s)
	}
	b.feed(other)
	b.must(b.ends("write", w))
	b.holds(file, 1, 'r')
	b.healthy(other)
}

// What was loaded and refused by the proof is not put to use by anybody.
func TestKernelProofRefused(t *testing.T) {
	b := newBench(t)
	file := sparse(t, fileSize)
	p, other := loop(t, file), loop(t, file)
	d := b.ensure(p)
	asked, refused := 0, errors.New("not the right device")
	err := b.g.Feed(b.name, other, false, func() error {
		if asked++; asked == 2 {
			return refused
		}
		return nil
	})
	if !errors.Is(err, refused) {
		t.Fatalf("got %v", err)
	}
	if s := b.state(); !s.On(p) || s.NewTable {
		t.Errorf("refused: %+v", s)
	}
	b.feed(p) // what waits was dropped for it
	b.healthy(p)
	b.must(b.ends("write", b.write(d, 0, 'p')))
	b.feed(other)
	b.healthy(other)
}

func TestKernelReadOnly(t *testing.T) {
	b := newBench(t)
	p := loop(t, sparse(t, fileSize))
	d, err := b.g.Ensure(context.Background(), b.name, p, true, right)
	b.must(err)
	b.healthy(p)
	if ro := run(t, "blockdev", "--getro", d.Node); ro != "1" {
		t.Errorf("read-only is %s", ro)
	}
}

// What the disk can do the table can, also after it has grown and was swapped.
func TestKernelLimits(t *testing.T) {
	b := newBench(t)
	file := sparse(t, fileSize)
	p := loop(t, file)
	limits := func(disk string) (out string) {
		for _, name := range []string{"logical_block_size", "physical_block_size", "discard_max_bytes", "discard_granularity", "write_cache", "fua", "max_hw_sectors_kb"} {
			value, err := os.ReadFile("/sys/block/" + disk + "/queue/" + name)
			b.must(err)
			out += name + "=" + strings.TrimSpace(string(value)) + " "
		}
		return out
	}
	want := limits(p.Disk)
	if strings.Contains(want, "discard_max_bytes=0 ") {
		t.Fatalf("the disk cannot discard, so this shows nothing: %s", want)
	}
	d := b.ensure(p)
	check := func(when string) {
		t.Helper()
		if got := limits(d.Disk); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	check("made")
	b.must(os.Truncate(file, 2*fileSize))
	large := loop(t, file)
	b.must(b.g.Hold(b.name))
	b.feed(large)
	b.healthy(large)
	check("swapped and grown")
}

// A number that belongs to another device by now is not put below.
func TestKernelWrongDevice(t *testing.T) {
	b := newBench(t)
	file := sparse(t, fileSize)
	p, other := loop(t, file), loop(t, file)
	b.ensure(p)
	other.Node = p.Node
	if err := b.g.Feed(b.name, other, false, right); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("another device's node: %v", err)
	}
	other.Node = filepath.Join(t.TempDir(), "none")
	if err := b.g.Feed(b.name, other, false, right); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no node: %v", err)
	}
	other.Node = file
	if err := b.g.Feed(b.name, other, false, right); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("a plain file: %v", err)
	}
	b.healthy(p)
}

// killed is what a process leaves that dies between two steps.
var killed = map[string]func(b *bench, to Path) error{
	"leg loaded":           func(b *bench, to Path) error { return b.loadLeg(to) },
	"leg suspended":        func(b *bench, _ Path) error { return b.c.Suspend(b.name + legSuffix) },
	"leg loaded, stopped":  func(b *bench, to Path) error { return errors.Join(b.loadLeg(to), b.c.Suspend(b.name+legSuffix)) },
	"table loaded":         func(b *bench, to Path) error { return b.loadTable(to) },
	"table suspended":      func(b *bench, _ Path) error { return b.c.Suspend(b.name) },
	"all of it, suspended": func(b *bench, to Path) error { return errors.Join(b.loadLeg(to), b.loadTable(to), b.c.Suspend(b.name)) },
}

func (b *bench) loadLeg(to Path) error { return b.c.Load(b.name+legSuffix, linearTable(to, false)) }

func (b *bench) loadTable(to Path) error {
	l, err := b.g.look(b.name)
	b.must(err)
	return b.c.Load(b.name, multipathTable(to.dev(), l.leg.Number(), l.size, false))
}

// Whatever a killed call left, and whichever device comes next, a Feed ends
// with what waited being written.
func TestKernelFeedHeals(t *testing.T) {
	for left, kill := range killed {
		for _, held := range []bool{false, true} {
			for next := range 3 {
				if next == 2 && !held {
					continue // that a third one comes is no matter of what waits
				}
				t.Run(fmt.Sprintf("%s/held=%v/next=%d", left, held, next), func(t *testing.T) { feedHeals(t, kill, held, next) })
			}
		}
	}
}

func feedHeals(t *testing.T, kill func(*bench, Path) error, held bool, next int) {
	b := newBench(t)
	file := sparse(t, fileSize)
	paths := []Path{loop(t, file), loop(t, file), loop(t, file)}
	d := b.ensure(paths[0])
	if held {
		b.must(b.g.Hold(b.name))
	}
	b.must(kill(b, paths[1]))
	w := b.write(d, 5, 'k')
	if held {
		b.waits("write", w)
	}
	b.feed(paths[next])
	b.must(b.ends("write", w))
	b.holds(file, 5, 'k')
	b.feed(paths[next]) // the write may have been under way below the leg that was left
	b.healthy(paths[next])
}

// What an Ensure leaves that was killed is gone on with by the next.
func TestKernelEnsureHeals(t *testing.T) {
	for _, left := range []string{"created", "leg", "earlier"} {
		t.Run(left, func(t *testing.T) {
			b := newBench(t)
			file := sparse(t, fileSize)
			p, other := loop(t, file), loop(t, file)
			_, err := b.c.Create(b.name, uuidOf(b.name))
			b.must(err)
			switch left {
			case "leg":
				_, err := b.c.Create(b.name+legSuffix, uuidOf(b.name+legSuffix))
				b.must(errors.Join(err, b.loadLeg(other)))
			case "earlier":
				b.earlier(p)
			}
			if s := b.state(); s.HasTable != (left == "earlier") || s.Whole(p) {
				t.Fatalf("before: %+v", s)
			}
			b.must(b.g.GiveUp(b.name))
			d := b.ensure(p)
			b.must(b.ends("write", b.write(d, 0, 'e')))
			b.holds(file, 0, 'e')
			b.healthy(p)
		})
	}
}

// earlier gives the table one path, to the disk itself: as it was once.
func (b *bench) earlier(p Path) {
	b.t.Helper()
	b.must(b.c.Load(b.name, dm.Table{
		Sectors: p.sectors(), Target: "multipath", Params: "3 queue_if_no_path queue_mode bio 0 1 1 queue-length 0 1 1 " + p.dev() + " 1",
	}))
	_, err := b.c.Resume(b.name, dm.NoScan)
	b.must(err)
}

// Giving up ends the waiting whatever a killed call left, and never puts to use
// what nobody vouches for.
func TestKernelGiveUpAfterKill(t *testing.T) {
	for left, kill := range killed {
		t.Run(left, func(t *testing.T) {
			b := newBench(t)
			file, wrong := sparse(t, fileSize), sparse(t, fileSize)
			p, stranger := loop(t, file), loop(t, wrong)
			d := b.ensure(p)
			b.must(b.g.Hold(b.name))
			b.must(kill(b, stranger))
			w := b.write(d, 5, 'k')
			b.waits("write", w)
			b.givenUp("write", w)
			if s := b.state(); s.Queues || s.Suspended || s.Active || s.Holds {
				t.Errorf("given up: %+v", s)
			}
			b.holds(wrong, 5, 0)
			b.feed(p)
			b.healthy(p)
		})
	}
}

func TestKernelList(t *testing.T) {
	b := newBench(t)
	p := loop(t, sparse(t, fileSize))
	_, err := b.c.Create("guardtest-foreign", "TEST-foreign")
	b.must(err)
	defer func() { b.must(b.c.Remove("guardtest-foreign")) }()
	b.ensure(p)
	before, err := b.g.List()
	b.must(err)
	if _, ok := before[b.name]; !ok || len(before) != 1 {
		t.Fatalf("listed: %v", before)
	}
	b.must(b.g.Hold(b.name))
	deadline := time.Now().Add(5 * time.Second)
	for {
		after, err := b.g.List()
		b.must(err)
		if after[b.name] != before[b.name] {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a path that failed is no event")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A name may be 127 bytes long and the kernel takes it, whatever the volume is
// called.
func TestKernelNames(t *testing.T) {
	for i, id := range []string{"../../x", strings.Repeat("a", 300), "Ж/\x00\n ", ""} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			b := newBench(t)
			b.name = Name(id, 1<<64-1)
			p := loop(t, sparse(t, fileSize))
			b.ensure(p)
			b.healthy(p)
		})
	}
}
