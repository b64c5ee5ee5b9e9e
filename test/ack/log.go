package ack

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Log is what a writer reported, kept outside of the machine that writes, so
// that it survives whatever happens there.
type Log struct {
	mu     sync.Mutex
	last   map[uint64]uint64 // block to the last acknowledged sequence number
	acked  int
	issued uint64
	errors []string
	failed time.Time   // when the first error came, as seen here
	times  []time.Time // of each acknowledgement, as seen here
}

// NewLog returns an empty log.
func NewLog() *Log { return &Log{last: map[uint64]uint64{}} }

// Read takes the writer's report until it ends: lines "a SEQ BLOCK" for each
// acknowledged write and "e SEQ TEXT" for each error.
func (l *Log) Read(r io.Reader) error {
	s := bufio.NewScanner(r)
	for s.Scan() {
		if err := l.line(s.Text()); err != nil {
			return err
		}
	}
	return s.Err()
}

func (l *Log) line(text string) error {
	var seq, block uint64
	l.mu.Lock()
	defer l.mu.Unlock()
	if n, _ := fmt.Sscanf(text, "a %d %d", &seq, &block); n == 2 {
		l.last[block] = seq
		l.acked++
		l.issued = max(l.issued, seq)
		l.times = append(l.times, time.Now())
		return nil
	}
	if len(text) > 2 && text[0] == 'e' {
		if len(l.errors) == 0 {
			l.failed = time.Now()
		}
		l.errors = append(l.errors, text[2:])
		return nil
	}
	return fmt.Errorf("writer said %q", text)
}

// Acked is the number of acknowledged writes.
func (l *Log) Acked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// Errors are the I/O errors that the writer saw.
func (l *Log) Errors() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.errors)
}

// FirstError is when the first error came; zero if none did.
func (l *Log) FirstError() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// FirstAfter is when the first write was acknowledged after t.
func (l *Log) FirstAfter(t time.Time) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, _ := slices.BinarySearchFunc(l.times, t, func(a, b time.Time) int { return a.Compare(b) })
	if i == len(l.times) {
		return time.Time{}, false
	}
	return l.times[i], true
}

// LastBefore is when the last write was acknowledged before t.
func (l *Log) LastBefore(t time.Time) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, _ := slices.BinarySearchFunc(l.times, t, func(a, b time.Time) int { return a.Compare(b) })
	if i == 0 {
		return time.Time{}, false
	}
	return l.times[i-1], true
}

// Stall is the longest time between two acknowledgements, or between one and an
// end of the interval, from one moment to another.
func (l *Log) Stall(from, to time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	longest, last := time.Duration(0), from
	for _, t := range l.times {
		if t.After(from) && t.Before(to) {
			longest, last = max(longest, t.Sub(last)), t
		}
	}
	return max(longest, to.Sub(last))
}

// Result is what a check of the blocks found.
type Result struct {
	Blocks  int      // blocks that were acknowledged at least once
	Lost    int      // blocks that hold an older write than the acknowledged one
	Corrupt int      // blocks that hold what was never written there
	Details []string // the first few
}

// Verify reads every acknowledged block through r. A newer write than the last
// acknowledged one is right: it was under way when the report ended.
func (l *Log) Verify(r io.ReaderAt, writer uint64) (Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	res := Result{Blocks: len(l.last)}
	buf := make([]byte, BlockSize)
	for block, want := range l.last {
		if _, err := r.ReadAt(buf, int64(block)*BlockSize); err != nil {
			return res, fmt.Errorf("read block %d: %w", block, err)
		}
		seq, err := Check(buf, writer, block)
		switch {
		case err != nil:
			res.Corrupt++
			res.detail(err.Error())
		case seq < want:
			res.Lost++
			res.detail(fmt.Sprintf("block %d: holds write %d, write %d was acknowledged", block, seq, want))
		}
	}
	return res, nil
}

func (r *Result) detail(s string) {
	if len(r.Details) < 10 {
		r.Details = append(r.Details, s)
	}
}
