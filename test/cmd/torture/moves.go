package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/report"
)

// grace is the nodes' for withdrawn volumes, short so that a round is.
const grace = time.Second

// mover takes volumes from nodes that are taken for dead and are not: a volume
// is withdrawn and given to the other node while its own is cut off with writes
// in every state, and then that node comes back.
type mover struct {
	c      *cluster.Cluster
	report report.Report
	began  time.Time
	writer uint64
	took   map[string][]time.Duration // what is printed of each round, at the end too
}

func runMoves(ctx context.Context, o options) (err error) {
	c, err := cluster.Start(ctx, cluster.Config{
		Name: "moves", Kernel: o.kernel, Nodes: 2, NodeFlags: []string{"--withdrawn-grace", grace.String()},
		Log: func(f string, a ...any) { fmt.Printf("  "+f+"\n", a...) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	m := &mover{c: c, began: time.Now(), took: map[string][]time.Duration{}}
	m.report.Kernel, m.report.Accel, m.report.Volumes = c.Lab.KernelVersion(), c.Lab.Accel(), 1
	for i := range o.moves {
		mv := m.draw(i)
		if err := mv.play(ctx); err != nil {
			return fmt.Errorf("round %d (%s): %w\n%s", i+1, mv, err, autopsy(c))
		}
	}
	m.report.Judge()
	path := filepath.Join(cluster.Root(), "build", "torture", fmt.Sprintf("moves-%s.json", o.kernel))
	if err := m.report.Write(path); err != nil {
		return err
	}
	m.print(o.moves, path)
	if !m.report.Passed {
		return errors.New("the promise was not kept")
	}
	return nil
}

// The figures of a round, in the order in which they are printed.
const (
	figFence    = "fence"
	figError    = "error after healing"
	figDead     = "error after fence, way dead"
	figEnd      = "pod's end after SIGTERM"
	figRelease  = "unmount and unstage"
	figBack     = "stage on the old node"
	figDuration = "whole round"
)

func (m *mover) note(figure string, d time.Duration) { m.took[figure] = append(m.took[figure], d) }

// last is what was noted last of a figure, in seconds.
func (m *mover) last(figure string) float64 {
	d := m.took[figure]
	return d[len(d)-1].Seconds()
}

func (m *mover) print(moves int, path string) {
	fmt.Printf("\n  %-28s %6s %8s %8s\n", "", "n", "median", "worst")
	for _, figure := range []string{figFence, figError, figDead, figEnd, figRelease, figBack, figDuration} {
		d := slices.Sorted(slices.Values(m.took[figure]))
		if len(d) == 0 {
			continue
		}
		fmt.Printf("  %-28s %6d %6.2f s %6.2f s\n", figure, len(d), at(d, 0.5), at(d, 1))
	}
	fmt.Printf("\n  Linux %s: %d moves in %s, %d writes acknowledged, %d lost, %d wrong, nothing of a fenced node after its fence, nothing left behind\n  %s\n",
		m.report.Kernel, moves, time.Since(m.began).Round(time.Second), m.report.AckedWrites, m.report.LostWrites, m.report.CorruptReads, path)
}

// await polls until ok holds.
func await(limit time.Duration, what string, ok func() bool) error {
	for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within %s", what, limit)
		}
	}
	return nil
}

// ended waits for the end of a writer or another program in a machine.
func ended(done <-chan error, limit time.Duration, what string) error {
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	case <-time.After(limit):
		return fmt.Errorf("%s does not end within %s", what, limit)
	}
}
