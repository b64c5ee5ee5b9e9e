//go:build vm

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// sessions are the node's connections: each controller with the inode of its
// directory in sysfs, which no other controller ever has, and the sockets. Two
// answers differ if anything was connected or disconnected in between.
func (b *bench) sessions() string {
	b.Helper()
	return b.sh(`shopt -s nullglob
for c in /sys/class/nvme/nvme*; do echo "${c##*/} $(stat -L -c %%i $c) $(<$c/subsysnqn)"; done
ss -Htn state established '( dport = :4420 )' | while read -r _ _ from to _; do echo "$from $to"; done | sort`)
}

// controllers counts those of the node in any state.
func (b *bench) controllers() int {
	b.Helper()
	return strings.Count(b.sessions(), "nqn.")
}

// mounts is the mount table as far as it is about volumes.
func (b *bench) mounts() string {
	b.Helper()
	return b.sh(`while read -r line; do case $line in */var/lib/kubelet/*) echo "$line";; esac; done </proc/self/mountinfo`)
}

// states are the states of the controllers of a volume's session.
func (b *bench) states(v *cluster.Volume) []string {
	b.Helper()
	out := b.sh(`shopt -s nullglob; for c in /sys/class/nvme/nvme*; do
		{ read -r nqn <$c/subsysnqn && read -r state <$c/state; } 2>/dev/null && [ $nqn = %s ] && echo "$state"; done; true`, v.Publish["nqn"])
	return strings.Fields(out)
}

// allLive is nil if the volume's session has n controllers and all are live.
func (b *bench) allLive(v *cluster.Volume, n int) error {
	b.Helper()
	got := b.states(v)
	if len(got) != n || slices.ContainsFunc(got, func(s string) bool { return s != "live" }) {
		return fmt.Errorf("controllers are %v, want %d live", got, n)
	}
	return nil
}

// awaitState waits until a controller of the volume's session is in the state.
func (b *bench) awaitState(limit time.Duration, v *cluster.Volume, want string) time.Duration {
	b.Helper()
	began := time.Now()
	for end := began.Add(limit); ; {
		got := b.states(v)
		if slices.Contains(got, want) {
			return time.Since(began)
		}
		if time.Now().After(end) {
			b.Fatalf("session of %s is %v after %s, want %s", v.Name, got, limit, want)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// awaitNodeAlone waits until the node has no connection at all.
func (b *bench) awaitNodeAlone(limit time.Duration) {
	b.Helper()
	b.within(limit, "the node disconnects", func(context.Context) error {
		if n := b.controllers(); n > 0 {
			return fmt.Errorf("%d controllers", n)
		}
		return nil
	})
}
