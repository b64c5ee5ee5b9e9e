package app

import (
	"log/slog"
	"time"

	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/watch"
)

// moment is one moment by both clocks: by that with which the watch reckons, and
// by that which goes on over a restart of the plugin.
type moment struct {
	now    time.Time
	uptime time.Duration
}

func thisMoment() (moment, error) {
	up, err := node.Uptime()
	return moment{time.Now(), up}, err
}

// toBoot and fromBoot are pure. Zero, a clock that does not run, stays zero.
func (m moment) toBoot(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(1, m.uptime-m.now.Sub(t))
}

func (m moment) fromBoot(d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return m.now.Add(-max(0, m.uptime-d)) // never in the future: that would end nothing
}

// KeepClocks implements watch.Keeper.
func (k *keeper) KeepClocks(all map[string]watch.Clock) error {
	m, err := thisMoment()
	if err != nil {
		return err
	}
	out := make(map[string]node.Clock, len(all))
	for id, c := range all {
		out[id] = node.Clock{Generation: c.Generation, Waiting: m.toBoot(c.WaitSince), Withdrawn: m.toBoot(c.FencedAt)}
	}
	return k.Node.KeepClocks(out)
}

// clocksOf reads what an earlier process has kept. Without it the limits begin
// anew, which is no reason not to start.
func clocksOf(flow *node.Node, log *slog.Logger) map[string]watch.Clock {
	out := map[string]watch.Clock{}
	kept, err := flow.Clocks()
	m, merr := thisMoment()
	if err != nil || merr != nil {
		log.Warn("since when volumes wait is not known: their limits begin anew", "err", err, "clock", merr)
		return out
	}
	for id, c := range kept {
		out[id] = watch.Clock{Generation: c.Generation, WaitSince: m.fromBoot(c.Waiting), FencedAt: m.fromBoot(c.Withdrawn)}
	}
	return out
}
