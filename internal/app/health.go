package app

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/watch"
)

// health joins what the kernel shows of a volume with what the watch knows of
// it: since when, and why.
type health struct {
	flow  *node.Node
	watch *watch.Watch
}

func (h health) Condition(ctx context.Context, volumeID string) (node.Condition, error) {
	c, err := h.flow.Condition(ctx, volumeID)
	r, known := h.watch.Report(volumeID)
	if err != nil || !known {
		return c, err
	}
	return explain(c, r, time.Now()), nil
}

// erredFor is how long a volume is called erring after its I/O was let fail.
const erredFor = 10 * time.Minute

// explain is a pure function.
func explain(c node.Condition, r watch.Report, now time.Time) node.Condition {
	switch {
	case c.State == node.Connected && !r.ErredAt.IsZero() && now.Sub(r.ErredAt) < erredFor:
		return node.Condition{State: node.Erring, Message: fmt.Sprintf("erring: the storage host answers and refuses some reads or writes of the volume, which failed for it (%d times, last %s): look at its disk", r.Errors, r.ErredAt.UTC().Format(time.RFC3339))}
	case c.State != node.Reconnecting:
		return c
	}
	switch r.State {
	case watch.Erring:
		return node.Condition{State: node.Erring, Message: "erring: the storage host answers and refuses reads or writes of the volume; they are tried again for about 25 s and then fail: look at its disk"}
	case watch.Refused:
		return node.Condition{State: node.Refused, Message: "refused: " + r.Why + "; it is not used, I/O waits and nothing is lost"}
	case watch.Fenced:
		return node.Condition{State: node.Fenced, Message: "withdrawn: the storage host has taken the volume from this node; its I/O still waits, and will fail"}
	case watch.Serving, watch.Waiting, watch.Failing, watch.Lost:
	}
	if !r.WaitSince.IsZero() {
		c.Message += fmt.Sprintf(" (since %s, %s, %d attempts to connect)", r.WaitSince.UTC().Format(time.RFC3339), now.Sub(r.WaitSince).Round(time.Second), r.Attempts)
	}
	return c
}
