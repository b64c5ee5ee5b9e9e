package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// guarded volumes that do nothing, and for how long the plugin is watched
// meanwhile.
const (
	watched   = 200
	watchTime = 2 * time.Minute // one look at everything falls into it
)

// watching measures what the watch costs while nothing happens.
func (b *bench) watching(ctx context.Context) error {
	var vs []*cluster.Volume
	for i := range watched {
		v := &cluster.Volume{Name: fmt.Sprintf("watched-%d", i), SizeBytes: 8 << 20, Parameters: map[string]string{"guard": "dm"}}
		if err := b.c.Provision(ctx, v); err != nil {
			return err
		}
		if err := b.c.Attach(ctx, v, b.c.Nodes[0]); err != nil {
			return err
		}
		vs = append(vs, v)
	}
	for batch := range slices.Chunk(vs, 20) { // a chain of calls has a deadline
		if _, _, err := b.call(ctx, false, up, batch...); err != nil {
			return err
		}
	}
	time.Sleep(5 * time.Second)
	from, err := b.processor(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	var seconds []float64
	last := from
	for time.Since(began) < watchTime {
		time.Sleep(time.Second)
		now, err := b.processor(ctx)
		if err != nil {
			return err
		}
		seconds = append(seconds, (now - last).Seconds())
		last = now
	}
	b.result.WatchMedian = median(seconds)
	b.result.WatchShare = (last - from).Seconds() / time.Since(began).Seconds()
	if b.result.Watching, err = b.memory(ctx); err != nil {
		return err
	}
	for batch := range slices.Chunk(vs, 20) {
		if _, _, err := b.call(ctx, false, down, batch...); err != nil {
			return err
		}
	}
	return b.remove(ctx, vs)
}

// processor is how long the plugin has computed so far, all its threads together:
// the first number of schedstat, in nanoseconds (Documentation/scheduler/
// sched-stats.rst). The clock ticks of stat are samples, and a program that is
// woken by a timer runs just when they are taken.
func (b *bench) processor(ctx context.Context) (time.Duration, error) {
	text, err := b.c.Nodes[0].Shell(ctx, fmt.Sprintf("cat /proc/%d/task/*/schedstat", b.c.Nodes[0].PluginPID()))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for line := range strings.Lines(text) {
		var ns int64
		if _, err := fmt.Sscan(line, &ns); err != nil {
			return 0, fmt.Errorf("schedstat of the plugin: %q: %w", line, err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}
