package node

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Unusable is a volume that is not mounted for what it holds, or does not hold.
type Unusable struct {
	Stage StageRequest
	Why   string
	last  time.Time
}

// stagedAgain is how long after an attempt the kubelet has made the next: its pauses
// grow to 122 s (kubelet, pkg/util/goroutinemap/exponentialbackoff), and an attempt
// may take 2 minutes.
const stagedAgain = 5 * time.Minute

// unusable remembers what was refused, for telling people; nothing is decided by it.
type unusable struct {
	mu  sync.Mutex
	all map[string]Unusable // guarded by mu; by volume ID
}

// note remembers whether a volume can be used. What could not be found out says
// nothing.
func (u *unusable) note(stage StageRequest, err error, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case err == nil:
		delete(u.all, stage.VolumeID)
	case errors.Is(err, volume.ErrPrecondition):
		if u.all == nil {
			u.all = map[string]Unusable{}
		}
		u.all[stage.VolumeID] = Unusable{stage, strings.TrimSuffix(err.Error(), ": "+volume.ErrPrecondition.Error()), now}
	}
}

// since lists what was refused and is still asked for.
func (u *unusable) since(now time.Time) []Unusable {
	u.mu.Lock()
	defer u.mu.Unlock()
	maps.DeleteFunc(u.all, func(_ string, v Unusable) bool { return now.Sub(v.last) > stagedAgain })
	return slices.Collect(maps.Values(u.all))
}

// Unusable lists the volumes that pods ask for here and that are not mounted, because
// of what they hold.
func (n *Node) Unusable() []Unusable { return n.unusable.since(time.Now()) }
