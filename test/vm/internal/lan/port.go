package lan

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"
)

// queueLen is how many frames wait per direction of a port. At 1,514 bytes it is 6 MB: enough for the 100 ms of delay at
// 60 MB/s that tests ask for, and little enough to forget.
const queueLen = 4096

// Port is a socket of the switch: what is plugged in, and what is wrong with it.
type Port struct {
	sw *Switch

	faults faults

	mu   sync.Mutex
	link *link // guarded by mu; nil when nothing is plugged in
}

// link is one machine plugged into a port, from Attach to the end of the stream.
type link struct {
	stream io.ReadWriteCloser
	in     chan delayed // from the machine to the switch
	out    chan delayed // from the switch to the machine
	done   chan struct{}
}

type delayed struct {
	frame []byte
	due   time.Time // zero: at once
}

// Attach plugs a stream in, instead of one plugged in before. The port closes the stream when it ends.
func (p *Port) Attach(stream io.ReadWriteCloser) {
	l := &link{
		stream: stream,
		in:     make(chan delayed, queueLen),
		out:    make(chan delayed, queueLen),
		done:   make(chan struct{}),
	}
	p.mu.Lock()
	old := p.link
	p.link = l
	p.mu.Unlock()
	if old != nil {
		old.stream.Close()
	}
	go p.read(l)
	go pump(l.in, l.done, func(frame []byte) error { p.sw.forward(p, frame); return nil }, nil)
	w := bufio.NewWriterSize(stream, 64<<10)
	go pump(l.out, l.done, func(frame []byte) error { return writeFrame(w, frame) }, w.Flush)
}

// Detach unplugs the stream for good and closes it.
func (p *Port) Detach() {
	p.mu.Lock()
	l := p.link
	p.link = nil
	p.mu.Unlock()
	if l != nil {
		l.stream.Close()
	}
}

// read queues what the machine sends until the stream ends.
func (p *Port) read(l *link) {
	defer close(l.done)
	defer l.stream.Close()
	r := bufio.NewReaderSize(l.stream, 64<<10)
	for {
		frame, err := readFrame(r)
		if err != nil {
			return
		}
		if due, ok := p.faults.admit(fromMachine, time.Now()); ok {
			enqueue(l.in, delayed{frame, due})
		}
	}
}

// deliver queues a frame towards the machine, if there is one and the port lets it pass.
func (p *Port) deliver(frame []byte) {
	p.mu.Lock()
	l := p.link
	p.mu.Unlock()
	if l == nil {
		return
	}
	if due, ok := p.faults.admit(toMachine, time.Now()); ok {
		enqueue(l.out, delayed{frame, due})
	}
}

func enqueue(queue chan<- delayed, d delayed) {
	select {
	case queue <- d:
	default: // full: dropped
	}
}

// pump passes frames on in order, each not before it is due, until done or an error. idle runs whenever the queue is empty.
func pump(queue <-chan delayed, done <-chan struct{}, pass func([]byte) error, idle func() error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var d delayed
		select {
		case <-done:
			return
		case d = <-queue:
		}
		if wait := time.Until(d.due); !d.due.IsZero() && wait > 0 {
			if idle != nil && idle() != nil {
				return
			}
			timer.Reset(wait)
			select {
			case <-done:
				return
			case <-timer.C:
			}
		}
		if pass(d.frame) != nil {
			return
		}
		if idle != nil && len(queue) == 0 && idle() != nil {
			return
		}
	}
}

func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return nil, fmt.Errorf("frame of %d bytes: stream out of step", n)
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, err
	}
	return frame, nil
}

func writeFrame(w io.Writer, frame []byte) error {
	var head [4]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(frame)))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(frame)
	return err
}
