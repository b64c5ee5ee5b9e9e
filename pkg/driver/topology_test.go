package driver

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

func in(zone string) *csi.Topology {
	return &csi.Topology{Segments: map[string]string{"zone": zone}}
}

func TestTiers(t *testing.T) {
	t.Parallel()
	zoned := Topology{"a1": {"zone": "a"}, "a2": {"zone": "a"}, "b1": {"zone": "b"}, "racked": {"zone": "a", "rack": "7"}, "all": nil}
	for name, c := range map[string]struct {
		topology Topology
		require  *csi.TopologyRequirement
		want     [][]string
		err      error
	}{
		"no topology":       {Topology{"a1": nil}, &csi.TopologyRequirement{Requisite: []*csi.Topology{in("a")}}, nil, nil},
		"nothing required":  {zoned, nil, nil, nil},
		"one zone":          {zoned, &csi.TopologyRequirement{Requisite: []*csi.Topology{in("b")}}, [][]string{{"all", "b1"}}, nil},
		"one preferred":     {zoned, &csi.TopologyRequirement{Requisite: []*csi.Topology{in("a"), in("b")}, Preferred: []*csi.Topology{in("b"), in("a")}}, [][]string{{"all", "b1"}, {"a1", "a2"}}, nil},
		"two keys":          {zoned, &csi.TopologyRequirement{Preferred: []*csi.Topology{{Segments: map[string]string{"zone": "a", "rack": "7"}}}}, [][]string{{"a1", "a2", "all", "racked"}}, nil},
		"nowhere":           {Topology{"a1": {"zone": "a"}}, &csi.TopologyRequirement{Requisite: []*csi.Topology{in("c")}}, nil, volume.ErrNoSpace},
		"segments unknown":  {Topology{"a1": {"zone": "a"}}, &csi.TopologyRequirement{Requisite: []*csi.Topology{{Segments: map[string]string{"x": "y"}}}}, nil, volume.ErrNoSpace},
		"everywhere always": {zoned, &csi.TopologyRequirement{Requisite: []*csi.Topology{in("c")}}, [][]string{{"all"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := c.topology.tiers(slices.Sorted(maps.Keys(c.topology)), c.require)
			if diff := cmp.Diff(c.want, got); !errors.Is(err, c.err) || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
	if diff := cmp.Diff([]string{"rack", "zone"}, zoned.Keys()); diff != "" {
		t.Error(diff)
	}
	if got := zoned.accessible("all"); got != nil {
		t.Errorf("reached from everywhere: %v", got)
	}
	if got := zoned.accessible("b1"); len(got) != 1 || got[0].GetSegments()["zone"] != "b" {
		t.Errorf("%v", got)
	}
}
