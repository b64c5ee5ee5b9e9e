package cluster

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/agentclient"
	"github.com/holdfast-csi/holdfast/internal/pki"
)

// leakTime is how long what is being removed may take to go: the kernel ends a
// controller a moment after it has taken it out of sysfs, and the reverse.
const leakTime = 5 * time.Second

// nodeLeaks prints what a node holds. Nothing of it is looked at through a
// mount, which may be dead, and no program is started for a file: under
// emulation each costs 20 ms.
const nodeLeaks = `shopt -s nullglob; set +e
for c in /sys/class/nvme/nvme*; do
  read -r nqn <$c/subsysnqn || nqn=?; read -r state <$c/state || state=?; echo "controller ${c##*/} $nqn is $state"
done 2>/dev/null
for s in /sys/class/nvme-subsystem/*/nvme*n*; do echo "disk ${s##*/}"; done
while read -r dev at rest; do case $at in /var/lib/kubelet/*) echo "mount of $dev at $at";; esac; done </proc/self/mounts
for f in /var/lib/kubelet/pods/*/*; do echo "mount point $f"; done
for f in /run/holdfast/node/boot-*/*.json; do echo "record $f"; done
for f in /sys/block/dm-*; do read -r name <$f/dm/name || name=?; echo "table $name"; done 2>/dev/null
for f in /sys/fs/ext4/nvme* /sys/fs/ext4/dm-* /sys/fs/xfs/dm-* /sys/fs/xfs/nvme*; do echo "superblock $f"; done
for p in /proc/[0-9]*; do
  { read -r stat <$p/stat; } 2>/dev/null || continue; name=${stat#*(}; case ${stat##*) } in D*) echo "process ${p#/proc/} (${name%%)*}) hangs in the kernel";; esac
done
exit 0
`

// storageLeaks prints what a storage host shows and keeps for nodes.
const storageLeaks = `shopt -s nullglob; set +e
cd /sys/kernel/config/nvmet
for s in subsystems/*holdfast*; do echo "$s"; done
for n in subsystems/*holdfast*/namespaces/*; do echo "$n"; done
for h in hosts/*; do echo "$h"; done
for l in ports/*/subsystems/*; do echo "link $l"; done
for f in /data/pool/volumes/*; do echo "file $f"; done
exit 0
`

// Leaks lists everything that is left on the machines when no volume is meant
// to exist: controllers, disks, mounts, records, hanging processes; subsystems,
// namespaces, hosts, files, publications, volumes. It returns nothing as soon
// as there is nothing.
func (c *Cluster) Leaks(ctx context.Context) ([]string, error) {
	end := time.Now().Add(leakTime)
	for {
		left, err := c.leaks(ctx)
		if err != nil || len(left) == 0 || time.Now().After(end) {
			return left, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return left, ctx.Err()
		}
	}
}

func (c *Cluster) leaks(ctx context.Context) (left []string, err error) {
	for _, n := range c.Nodes {
		lines, err := n.Holds(ctx)
		if err != nil {
			return nil, err
		}
		left = append(left, lines...)
	}
	for _, s := range c.Storages {
		out, err := s.Shell(ctx, storageLeaks)
		if err != nil {
			return nil, fmt.Errorf("what is left on %s: %w", s.Name, err)
		}
		left = append(left, prefixed(s.Name, out)...)
		records, err := c.agentRecords(ctx, s)
		if err != nil {
			return nil, err
		}
		left = append(left, records...)
	}
	return left, nil
}

// Holds lists the controllers, disks, mounts, records and hanging processes of
// a node.
func (n *Node) Holds(ctx context.Context) ([]string, error) {
	out, err := n.Shell(ctx, nodeLeaks)
	if err != nil {
		return nil, fmt.Errorf("what is left on %s: %w", n.Name(), err)
	}
	return prefixed(n.Name(), out), nil
}

func (c *Cluster) agentRecords(ctx context.Context, s *Storage) (left []string, err error) {
	agent, err := c.Agent(s)
	if err != nil {
		return nil, err
	}
	defer agent.Close()
	volumes, err := agent.List(ctx, uuid.Nil, 0)
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		left = append(left, fmt.Sprintf("%s: volume %s (%s) on record", s.Name, v.UUID, v.Name))
	}
	pubs, err := agent.Publications(ctx)
	for _, p := range pubs {
		left = append(left, fmt.Sprintf("%s: publication of %s to %s on record", s.Name, p.Volume, p.Node))
	}
	return left, err
}

func prefixed(who, text string) []string {
	lines := slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return l == "" })
	for i, l := range lines {
		lines[i] = who + ": " + l
	}
	return lines
}

// Agent speaks to a storage host's agent as a controller would. The caller
// closes it.
func (c *Cluster) Agent(s *Storage) (*agentclient.Client, error) {
	dir := filepath.Join(c.dir, "tls", s.Name)
	tls, err := pki.ClientTLS(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "controller.crt"), filepath.Join(dir, "controller.key"))
	if err != nil {
		return nil, err
	}
	return agentclient.Dial(s.Name, s.ForwardAddr(agentPort), tls)
}

// Image is the file on the storage host in which a volume lies.
func (v *Volume) Image() string { return poolDir + "/volumes/" + v.UUID() + ".img" }
