//go:build vm

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/holdfast-csi/holdfast/test/ack"
	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/vm"
)

// areaBlocks is how much of a volume a writer uses: 4 MiB.
const areaBlocks = 1024

// writer is a program on the node that writes to a volume, and the log of what
// was acknowledged to it, which is kept here.
type writer struct {
	b    *bench
	m    *vm.Machine
	v    *cluster.Volume
	id   uint64
	log  *ack.Log
	done chan error
}

var writers atomic.Uint64

// write starts a writer on a published volume and waits for its first write.
func (b *bench) write(v *cluster.Volume) *writer {
	b.Helper()
	return b.writeTo(b.node.Machine, v, v.File(), "-pause 20ms")
}

func (b *bench) writeTo(m *vm.Machine, v *cluster.Volume, path, flags string) *writer {
	b.Helper()
	w := &writer{b: b, m: m, v: v, id: writers.Add(1), log: ack.NewLog(), done: make(chan error, 1)}
	if v.FSType == "" {
		flags += " -direct"
	}
	in, out := io.Pipe()
	cmd := m.Command(b.ctx, "bash", "-c", fmt.Sprintf("echo $$ >%s; exec /usr/local/bin/ackio -path %s -writer %d -blocks %d %s", w.pidFile(), path, w.id, areaBlocks, flags))
	cmd.Stdout = out
	go func() {
		err := cmd.Run()
		_ = out.Close() // a pipe's Close does not fail
		w.done <- err
	}()
	go func() { _ = w.log.Read(in) }() // ends with the pipe
	w.acked(20*time.Second, time.Now())
	return w
}

// controls are writers that use no volume: on the node's memory and on the
// storage host's disk. When they stall it is the machine that runs the tests
// that is busy, and no volume's fault.
type controls []*writer

func (b *bench) controls() controls {
	b.Helper()
	local := &cluster.Volume{Name: "control", FSType: "none"}
	return controls{
		b.writeTo(b.node.Machine, local, "/run/control", "-pause 50ms"),
		b.writeTo(b.storage.Machine, local, "/data/control", "-pause 50ms"),
	}
}

// stall is the longest of the controls since t.
func (c controls) stall(t time.Time) (longest time.Duration) {
	for _, w := range c {
		longest = max(longest, w.log.Stall(t, time.Now()))
	}
	return longest
}

func (c controls) stop() {
	for _, w := range c {
		w.stop()
	}
}

func (w *writer) pidFile() string { return fmt.Sprintf("/run/writer%d", w.id) }

// acked waits until a write is acknowledged that was so after t, and returns
// how long after t that was.
func (w *writer) acked(limit time.Duration, t time.Time) time.Duration {
	w.b.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if first, ok := w.log.FirstAfter(t); ok {
			return first.Sub(t)
		}
		if time.Now().After(end) {
			w.b.Fatalf("writer of %s: no write acknowledged within %s; errors: %v", w.v.Name, limit, w.log.Errors())
		}
	}
}

// stop ends the writer, which must not have seen an error.
func (w *writer) stop() {
	w.b.Helper()
	_, err := w.m.Shell(w.b.ctx, fmt.Sprintf("kill -TERM $(<%s)", w.pidFile()))
	w.b.must(err)
	select {
	case err := <-w.done:
		w.b.must(err)
	case <-time.After(20 * time.Second):
		w.b.Fatalf("writer of %s does not end", w.v.Name)
	}
	if e := w.log.Errors(); len(e) > 0 {
		w.b.Errorf("writer of %s saw %d errors: %v", w.v.Name, len(e), e[:min(3, len(e))])
	}
}

// verify reads every acknowledged block back. The volume must not be in use: a
// block volume is read from the storage host's own file, a file system through a
// new publication, so that no cache answers for the disk.
func (w *writer) verify() {
	b := w.b
	b.Helper()
	var image []byte
	if w.v.FSType == "" {
		image = b.image(w.v)
	} else {
		b.must(b.c.Attach(b.ctx, w.v, b.node))
		b.must(b.node.StageVolume(b.ctx, w.v))
		b.must(b.node.PublishVolume(b.ctx, w.v, true))
		file, err := b.node.Get(b.ctx, w.v.File())
		b.must(err)
		b.must(b.c.Drop(b.ctx, w.v, b.node))
		// The file is as long as its last block; what was never written is zero.
		image = append(file, make([]byte, max(0, areaBlocks*ack.BlockSize-len(file)))...)
	}
	res, err := w.log.Verify(bytes.NewReader(image), w.id)
	b.must(err)
	b.Logf("%s (%s): %d writes acknowledged, %d blocks read back, %d lost, %d corrupt", w.v.Name, kindOf(w.v), w.log.Acked(), res.Blocks, res.Lost, res.Corrupt)
	if res.Lost+res.Corrupt > 0 || res.Blocks == 0 {
		b.Errorf("%s: %v", w.v.Name, res.Details)
	}
}

func kindOf(v *cluster.Volume) string {
	if v.FSType == "" {
		return "block"
	}
	return v.FSType
}

// stallLimit is how long I/O may wait where nothing is meant to disturb it,
// beyond what the controls waited.
const stallLimit = time.Second

// calm fails the test if a writer saw an error or stalled since t, and tells
// how long it stalled.
func (w *writer) calm(t time.Time, c controls) string {
	w.b.Helper()
	stall, busy := w.log.Stall(t, time.Now()), c.stall(t)
	if e := w.log.Errors(); len(e) > 0 || stall > stallLimit+busy {
		w.b.Errorf("writer of %s (%s): stalled for %s (controls %s), errors: %v", w.v.Name, kindOf(w.v), seconds(stall), seconds(busy), e)
	}
	return fmt.Sprintf("%s (controls %s)", seconds(stall), seconds(busy))
}
