//go:build linux

package kube

import (
	"context"
	"fmt"
	"strings"
)

// what a node or a storage host shows of volumes.
const (
	nodeHolds = `shopt -s nullglob
for c in /sys/class/nvme/nvme*; do echo "controller ${c##*/} $(cat $c/subsysnqn) $(cat $c/state)"; done
for f in /sys/block/dm-*; do echo "table $(cat $f/dm/name)"; done
for f in /run/holdfast/node/boot-*/*.json; do echo "record $f"; done
while read -r dev at rest; do case $at in */kubernetes.io~csi/*/mount|*/volumeDevices/*|*/csi.holdfast.io/*) echo "mount $dev at $at";; esac; done </proc/self/mounts`
	storageHolds = `shopt -s nullglob; cd /sys/kernel/config/nvmet
for s in subsystems/*holdfast* hosts/* /srv/fast/volumes/*; do echo "$s"; done`
)

// Leftovers lists what there is of volumes in the API, on the nodes that have power
// and on the storage hosts: nothing, when no claim is left.
func (c *Cluster) Leftovers(ctx context.Context) (left []string, err error) {
	out, err := c.Kubectl(ctx, "get", "pv,volumeattachments", "-o", "name")
	if err != nil {
		return nil, err
	}
	left = append(left, said("the API", out)...)
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		held, err := n.Holds(ctx)
		if err != nil {
			return nil, err
		}
		left = append(left, held...)
	}
	for _, s := range c.Storages {
		if out, err = s.Shell(ctx, storageHolds); err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name(), err)
		}
		left = append(left, said(s.Name(), out)...)
	}
	return left, nil
}

// Holds lists what a node has of volumes.
func (n *Node) Holds(ctx context.Context) ([]string, error) {
	out, err := n.Shell(ctx, nodeHolds)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.Name(), err)
	}
	return said(n.Name(), out), nil
}

func said(who, text string) (out []string) {
	for line := range strings.Lines(text) {
		out = append(out, who+": "+strings.TrimSpace(line))
	}
	return out
}
