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

// processor is how long the plugin has computed so far (proc(5): fields 14 and
// 15 of stat, in clock ticks of 10 ms).
func (b *bench) processor(ctx context.Context) (time.Duration, error) {
	text, err := b.c.Nodes[0].Get(ctx, fmt.Sprintf("/proc/%d/stat", b.c.Nodes[0].PluginPID()))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("stat of the plugin: %q", text)
	}
	var user, system int64
	if _, err := fmt.Sscan(fields[11], &user); err != nil {
		return 0, err
	}
	if _, err := fmt.Sscan(fields[12], &system); err != nil {
		return 0, err
	}
	return time.Duration(user+system) * 10 * time.Millisecond, nil
}
