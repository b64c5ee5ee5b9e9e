package driver

import (
	"fmt"
	"maps"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Topology says from where each storage host can be reached: the segments, as CSI
// calls them, that a node must have. A host without any is reached from everywhere.
type Topology map[string]map[string]string

// Keys are those that some host asks for, sorted. Without any there is no topology.
func (t Topology) Keys() []string {
	keys := map[string]bool{}
	for _, segments := range t {
		for k := range segments {
			keys[k] = true
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// reaches says whether a host can be reached from nodes with these segments.
func (t Topology) reaches(host string, segments map[string]string) bool {
	for k, v := range t[host] {
		if segments[k] != v {
			return false
		}
	}
	return true
}

// from lists those of hosts that can be reached from nodes with these segments.
func (t Topology) from(hosts []string, segments map[string]string) []string {
	return slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return !t.reaches(h, segments) })
}

// tiers are the hosts on which a volume may be that is to be reached as r says: those
// of the first choice, then those of the next. It is nil if any will do, and an error
// if none does.
func (t Topology) tiers(hosts []string, r *csi.TopologyRequirement) ([][]string, error) {
	if len(t.Keys()) == 0 || len(r.GetRequisite())+len(r.GetPreferred()) == 0 {
		return nil, nil
	}
	var out [][]string
	seen := map[string]bool{}
	for _, term := range slices.Concat(r.GetPreferred(), r.GetRequisite()) {
		tier := slices.DeleteFunc(t.from(hosts, term.GetSegments()), func(h string) bool { return seen[h] })
		for _, h := range tier {
			seen[h] = true
		}
		if len(tier) > 0 {
			out = append(out, tier)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no storage host can be reached from where the volume is wanted (%v): %w", r.GetRequisite(), volume.ErrNoSpace)
	}
	return out, nil
}

// accessible is from where a volume of a host can be reached; nil is from everywhere.
func (t Topology) accessible(host string) []*csi.Topology {
	if len(t[host]) == 0 {
		return nil
	}
	return []*csi.Topology{{Segments: maps.Clone(t[host])}}
}
