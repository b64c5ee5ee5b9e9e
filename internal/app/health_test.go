package app

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/watch"
)

// What the kernel shows is joined with what the watch remembers, and neither is
// said where the other knows better.
func TestExplain(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, c := range map[string]struct {
		kernel node.State
		report watch.Report
		want   node.State
		says   string
	}{
		"well":                          {node.Connected, watch.Report{State: watch.Serving}, node.Connected, ""},
		"an outage":                     {node.Reconnecting, watch.Report{State: watch.Waiting, WaitSince: ago(90 * time.Second), Attempts: 7}, node.Reconnecting, "1m30s, 7 attempts"},
		"something else stands there":   {node.Reconnecting, watch.Report{State: watch.Refused, Why: "UUID: want a, found b"}, node.Refused, "found b"},
		"taken from this node":          {node.Reconnecting, watch.Report{State: watch.Fenced}, node.Fenced, "withdrawn"},
		"the disk refuses":              {node.Reconnecting, watch.Report{State: watch.Erring}, node.Erring, "look at its disk"},
		"the disk refused":              {node.Connected, watch.Report{State: watch.Serving, ErredAt: ago(9 * time.Minute), Errors: 3}, node.Erring, "3 times"},
		"the disk refused, long ago":    {node.Connected, watch.Report{State: watch.Serving, ErredAt: ago(11 * time.Minute), Errors: 3}, node.Connected, ""},
		"an outage after it refused":    {node.Reconnecting, watch.Report{State: watch.Waiting, ErredAt: ago(time.Minute), WaitSince: ago(time.Second)}, node.Reconnecting, "1s"},
		"the kernel deleted the device": {node.Lost, watch.Report{State: watch.Waiting, ErredAt: ago(time.Minute)}, node.Lost, ""},
	} {
		if got := explain(node.Condition{State: c.kernel}, c.report, now); got.State != c.want || !strings.Contains(got.Message, c.says) {
			t.Errorf("%s: %+v, want %s and %q", name, got, c.want, c.says)
		}
	}
}
