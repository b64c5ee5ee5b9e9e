package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// look prints why something on a node does not end: processes in the kernel and
// where, what waits in which queue, and what the kernel said. It opens no file
// through a mount and no block device.
const look = `set +e; shopt -s nullglob
for t in /proc/[0-9]*/task/*; do
  { read -r stat <$t/stat; } 2>/dev/null || continue
  name=${stat#*(}; name=${name%%)*}; state=${stat##*) }
  case $state in D*) echo "== ${t#/proc/} $name"; echo "$(<$t/stack)";; esac
done
for c in /sys/class/nvme/nvme*; do echo "controller ${c##*/} $(cat $c/state $c/subsysnqn | tr '\n' ' ')"; done
for s in /sys/class/nvme-subsystem/*/nvme*n*; do echo "disk ${s##*/} inflight $(cat $s/inflight 2>/dev/null)"; done
for b in /sys/block/dm-* /sys/block/nvme*; do echo "block ${b##*/} inflight $(cat $b/inflight)"; done
dmsetup table; dmsetup status --noflush
cat /proc/self/mounts | grep kubelet
dmesg | tail -60
exit 0
`

// autopsy is what the machines show at the moment of a failure.
func autopsy(c *cluster.Cluster) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var b strings.Builder
	for _, n := range c.Nodes {
		plugin := tail(n.PluginLog(ctx))
		out, err := n.Shell(ctx, look)
		if err != nil {
			out += "\nand no more"
		}
		fmt.Fprintf(&b, "--- %s ---\n%s\n--- its plugin ---\n%s\n", n.Name(), out, plugin)
	}
	fmt.Fprintf(&b, "--- agent ---\n%s\n", tail(c.Storages[0].Log(ctx)))
	return b.String()
}
