//go:build kernel

package agent_test

import (
	"bytes"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
)

// writer writes numbered blocks with direct I/O, until it is told to stop or
// gets an error.
type writer struct {
	dev     string
	n       atomic.Int64
	longest atomic.Int64 // nanoseconds
	end     chan struct{}
	failed  chan error
}

const writerBlocks = 512

func block(n int64) []byte {
	buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		return nil
	}
	copy(buf, fmt.Sprintf("block %d", n))
	return buf
}

func startWriter(t *testing.T, dev string) *writer {
	t.Helper()
	fd, err := unix.Open(dev, unix.O_RDWR|unix.O_DIRECT|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{dev: dev, end: make(chan struct{}), failed: make(chan error, 1)}
	go func() {
		defer unix.Close(fd)
		for {
			select {
			case <-w.end:
				w.failed <- nil
				return
			default:
			}
			n := w.n.Load()
			buf := block(n)
			began := time.Now()
			_, err := unix.Pwrite(fd, buf, n%writerBlocks*4096)
			_ = unix.Munmap(buf)
			if err != nil {
				w.failed <- fmt.Errorf("write %d: %w", n, err)
				return
			}
			w.longest.Store(max(w.longest.Load(), int64(time.Since(began))))
			w.n.Add(1)
		}
	}()
	return w
}

// stop ends the writer and reads back what it was told is written.
func (w *writer) stop(t *testing.T) {
	t.Helper()
	close(w.end)
	if err := <-w.failed; err != nil {
		t.Error(err)
	}
	f, err := os.Open(w.dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := w.n.Load()
	if n == 0 {
		t.Error("nothing was written")
	}
	for i := max(0, n-writerBlocks); i < n; i++ {
		buf := make([]byte, 32)
		want := append([]byte(fmt.Sprintf("block %d", i)), 0)
		if _, err := f.ReadAt(buf, i%writerBlocks*4096); err != nil || !bytes.HasPrefix(buf, want) {
			t.Errorf("block %d: %q %v", i, buf, err)
		}
	}
	t.Logf("%d writes, the longest took %s", n, time.Duration(w.longest.Load()).Round(time.Millisecond))
}

// powerCut silences the portals, takes the target apart, and ends the silence:
// hosts hear nothing but that the port is closed.
func powerCut(t *testing.T) {
	t.Helper()
	agenttest.Shell(t, `nft add table inet cut; nft add chain inet cut i '{ type filter hook input priority -100; }'; nft add rule inet cut i tcp dport 4420-4430 drop; nft add rule inet cut i tcp sport 4420-4430 drop`)
	agenttest.TakeApart(t)
	agenttest.Shell(t, "nft delete table inet cut")
}

// connections lists the established connections to the portals, with the ports
// of both ends: a reconnect shows.
func connections(t *testing.T) string {
	t.Helper()
	return agenttest.Shell(t, `awk '$4=="01" && ($3 ~ /:114[4-9A-F]$/) {print $2, $3}' /proc/net/tcp | sort`)
}
