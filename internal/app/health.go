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
	if err != nil || !known || c.State != node.Reconnecting {
		return c, err
	}
	return explain(c, r, time.Now()), nil
}

// explain is a pure function.
func explain(c node.Condition, r watch.Report, now time.Time) node.Condition {
	switch r.State {
	case watch.Refused:
		return node.Condition{State: node.Refused, Message: "refused: " + r.Why + "; it is not used, I/O waits and nothing is lost"}
	case watch.Fenced:
		return node.Condition{State: node.Fenced, Message: "withdrawn: the volume was taken from this node; its I/O still waits, and will fail", Held: true}
	case watch.Detached:
		return node.Condition{State: node.Detached, Message: "detached: the volume is there again, and Kubernetes says that it is not attached to this node any more; its I/O waits", Held: true}
	case watch.Serving, watch.Waiting, watch.Failing, watch.Lost:
	}
	if r.Asks {
		return node.Condition{State: node.Reconnecting, Message: "the volume is there again, and its I/O waits for Kubernetes' word that it is still attached to this node", Held: true}
	}
	if !r.WaitSince.IsZero() {
		c.Message += fmt.Sprintf(" (since %s, %s, %d attempts to connect)", r.WaitSince.UTC().Format(time.RFC3339), now.Sub(r.WaitSince).Round(time.Second), r.Attempts)
	}
	return c
}
