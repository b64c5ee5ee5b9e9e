package app

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/kube"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/driver"
)

func topologyOf(c config.Cluster) driver.Topology {
	t := driver.Topology{}
	for _, h := range c.Hosts {
		t[h.Name] = h.Topology
	}
	return t
}

// segments finds the values that this node has for the keys that storage hosts name.
// Keys that it has not are left out: only hosts that ask for them cannot be reached.
func (o nodeOptions) segments(keys []string) func(context.Context) (map[string]string, error) {
	if len(keys) == 0 {
		return nil
	}
	return func(ctx context.Context) (map[string]string, error) {
		known := maps.Clone(o.topology)
		if known == nil {
			known = map[string]string{}
		}
		if !hasAll(known, keys) {
			labels, err := nodeLabels(ctx, o.name)
			if err != nil {
				return nil, fmt.Errorf("the labels %v of node %s, which the hosts file asks for: %w: %w", keys, o.name, volume.ErrUnavailable, err)
			}
			for k, v := range labels {
				if known[k] == "" {
					known[k] = v
				}
			}
		}
		out := map[string]string{}
		for _, k := range keys {
			if v, ok := known[k]; ok {
				out[k] = v
			}
		}
		return out, nil
	}
}

func hasAll(m map[string]string, keys []string) bool {
	for _, k := range keys {
		if _, ok := m[k]; !ok {
			return false
		}
	}
	return true
}

// nodeLabels are none outside of a cluster.
func nodeLabels(ctx context.Context, node string) (map[string]string, error) {
	client, err := kube.InCluster()
	if errors.Is(err, kube.ErrNotInCluster) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	return client.NodeLabels(ctx, node)
}
