//go:build kernel

package guard

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/internal/dm"
)

// killedTable is in the environment of the process that is killed.
const killedTable = "HOLDFAST_TEST_TABLE"

// TestKernelKilled: a process that holds and feeds a table, of which one disk after
// the other is lost, is killed at any moment, also inside of what the device mapper
// does for it; whoever comes after it goes on. A writer sees no error in all of it,
// and nothing that it wrote is missing.
func TestKernelKilled(t *testing.T) {
	if os.Getenv(killedTable) != "" {
		loseAndFeed(t)
		return
	}
	const rounds = 60
	file := sparse(t, fileSize)
	disks := [2]*slow{namedSlow(t, "disk0", file), namedSlow(t, "disk1", file)}
	b := newBench(t)
	d := b.ensure(disks[0].path)
	w := b.writeOn(d)
	from := w.done.Load()
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	for range rounds {
		killAfter(t, "TestKernelKilled", b.name, time.Duration(random.IntN(60))*time.Millisecond)
		if err := w.err.Load(); err != nil {
			t.Fatalf("seed %d: I/O failed: %v; %+v", seed, *err, b.state())
		}
	}
	for _, x := range disks {
		x.lead("linear")
	}
	b.feed(disks[1].path)
	b.healthy(disks[1].path)
	w.stop(t)
	t.Logf("%d writes while %d processes were killed", w.done.Load()-from, rounds)
	if w.done.Load() == from {
		t.Error("nothing was written")
	}
	for block, fill := range w.last {
		if fill != 0 {
			b.holds(file, int64(block), fill)
		}
	}
}

// TestKernelKilledInSuspend: why the table is not suspended while it may be without
// a path. What waits in the suspend of a multipath target is interrupted by a
// signal, and from then on the target fails its I/O; that of a linear leg undoes
// itself.
func TestKernelKilledInSuspend(t *testing.T) {
	if device := os.Getenv(killedTable); device != "" {
		suspendAll(t, device)
		return
	}
	for name, c := range map[string]struct {
		device string
		queues bool
	}{"table": {"", false}, "leg": {legSuffix, true}} {
		t.Run(name, func(t *testing.T) {
			slow := newSlow(t, sparse(t, fileSize))
			b := newBench(t)
			b.g.waits = false // so the leg is linear
			d := b.ensure(slow.path)
			l, err := b.g.look(b.name)
			b.must(err)
			b.must(errors.Join(b.c.Message(b.name, "reinstate_path "+l.leg.Number()), b.c.Message(b.name, "fail_path "+l.direct().dev)))
			slow.stop()
			w := b.write(d, 1, 's')
			b.waits("write", w)
			killAfter(t, "TestKernelKilledInSuspend", b.name+c.device, 300*time.Millisecond)
			l, err = b.g.look(b.name)
			b.must(err)
			if l.queues != c.queues || l.top.Suspended || l.leg.Suspended {
				t.Errorf("%+v, want queueing to be %v", l, c.queues)
			}
			slow.goOn()
			b.must(b.ends("write", w))
			b.feed(slow.path)
			b.healthy(slow.path)
		})
	}
}

// suspendAll suspends one device, which has I/O under way.
func suspendAll(t *testing.T, device string) {
	c, err := dm.Open("/dev")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	t.Fatal(c.Suspend(device))
}

// killAfter starts a test as a process of its own, and kills it once it has been
// at it for d.
func killAfter(t *testing.T, test, device string, d time.Duration) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run", "^"+test+"$")
	c.Env = append(os.Environ(), killedTable+"="+device)
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("%v: %s", err, said.Bytes())
	}
	time.Sleep(d)
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); c.ProcessState.Exited() {
		t.Fatalf("it ended by itself: %v: %s", err, said.Bytes())
	}
}

// loseAndFeed takes turns with two disks: it loses the one in use, holds, and
// feeds the other.
func loseAndFeed(t *testing.T) {
	b := &bench{t: t, name: os.Getenv(killedTable)}
	var err error
	if b.c, err = dm.Open("/dev"); err != nil {
		t.Fatal(err)
	}
	b.g = New(b.c, "/dev")
	var disks [2]*slow
	for i := range disks {
		disks[i] = openSlow(t, b.c, fmt.Sprintf("disk%d", i))
	}
	fmt.Println("ready")
	for i := 0; ; i = 1 - i {
		disks[i].lead("linear")
		b.feed(disks[i].path)
		time.Sleep(2 * time.Millisecond)
		disks[i].lead("error")
		b.must(b.g.Hold(b.name))
		time.Sleep(2 * time.Millisecond)
	}
}

// lead has a disk work, or fail its I/O.
func (s *slow) lead(target string) {
	s.t.Helper()
	table := dm.Table{Sectors: s.sectors, Target: target}
	if target == "linear" {
		table.Params = s.below
	}
	if err := s.c.Load(s.name, table); err != nil {
		s.t.Fatal(err)
	}
	s.stop()
	s.goOn()
}

// openSlow finds one that is there.
func openSlow(t *testing.T, c *dm.Client, name string) *slow {
	t.Helper()
	d, err := c.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	below, err := os.ReadFile("/run/" + name)
	if err != nil {
		t.Fatal(err)
	}
	p := pathOf(t, "/dev/"+d.Disk())
	return &slow{t: t, c: c, name: name, path: p, below: string(below), sectors: p.sectors()}
}

// writer writes one block after the other, each when the one before is done.
type writer struct {
	done  atomic.Int64
	err   atomic.Pointer[error]
	end   chan struct{}
	ended chan struct{}
	last  [fileSize / blockSize]byte // what each block holds
}

func (b *bench) writeOn(d Device) *writer {
	w := &writer{end: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		for n := 0; ; n++ {
			select {
			case <-w.end:
				return
			default:
			}
			block, fill := n%len(w.last), byte(n/len(w.last)%255)+1
			if err := writeBlock(d.Node, int64(block), fill); err != nil {
				w.err.Store(&err)
				return
			}
			w.last[block] = fill
			w.done.Add(1)
		}
	}()
	return w
}

func (w *writer) stop(t *testing.T) {
	t.Helper()
	close(w.end)
	select {
	case <-w.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("a write does not end")
	}
	if err := w.err.Load(); err != nil {
		t.Fatal(errors.Join(errors.New("I/O failed"), *err))
	}
}
