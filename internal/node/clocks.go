package node

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Clock is since when a volume waits, and since when its storage host says that
// its publication has ended: as times since the boot, which nobody sets and which
// mean nothing after the next boot. Zero is a clock that does not run.
type Clock struct {
	Generation         uint64
	Waiting, Withdrawn time.Duration
}

// clocks are on disk in one piece: an outage takes many volumes at once, and is
// to cost one write. They are beside the records, because the records are read
// by whoever heals a volume, and nobody who heals waits for this disk.
type clocks struct {
	BootID string
	Clocks map[string]Clock
}

const clocksKey = "clocks"

// KeepClocks replaces the clocks. They are on disk when it returns nil.
func (n *Node) KeepClocks(all map[string]Clock) error {
	return n.clocks.Put(clocksKey, clocks{BootID: n.BootID, Clocks: all})
}

// Clocks returns those that were kept since this boot.
func (n *Node) Clocks() (map[string]Clock, error) {
	c, err := n.clocks.Get(clocksKey)
	if errors.Is(err, volume.ErrNotFound) || err == nil && c.BootID != n.BootID {
		return map[string]Clock{}, nil
	}
	return c.Clocks, err
}

// Uptime is the time since the boot, suspends included; setting the machine's
// clock does not change it.
func Uptime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0, fmt.Errorf("time since the boot: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
