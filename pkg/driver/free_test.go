package driver

import (
	"context"
	"errors"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// health is what is said of every volume.
type health struct {
	c   node.Condition
	err error
}

func (h health) Condition(context.Context, string) (node.Condition, error) { return h.c, h.err }

// A pod gets no static volume of which it is not known whose it is. One of ours has
// generations, and of what is not staged nothing waits.
func TestIsFree(t *testing.T) {
	t.Parallel()
	held := node.Condition{State: node.Detached, Held: true}
	for name, c := range map[string]struct {
		health  health
		managed *node.Managed
		free    bool
	}{
		"held":          {health{c: held}, nil, false},
		"held, of ours": {health{c: held}, &node.Managed{}, true},
		"waits":         {health{c: node.Condition{State: node.Reconnecting}}, nil, true},
		"not staged":    {health{err: volume.ErrNotFound}, nil, true},
	} {
		n := &Node{Health: c.health}
		err := n.isFree(t.Context(), node.StageRequest{VolumeID: "v", Attachment: node.Attachment{Managed: c.managed}})
		if (err == nil) != c.free || err != nil && !errors.Is(err, volume.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
