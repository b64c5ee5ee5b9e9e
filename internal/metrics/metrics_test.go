package metrics

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-csi/holdfast/internal/control"
	"github.com/holdfast-csi/holdfast/internal/node"
)

// source is a node with one volume that waits and one that serves.
type source struct{}

func (source) Volumes(context.Context) []control.Volume {
	since := time.Now().Add(-time.Hour)
	return []control.Volume{
		{ID: "box1:a", Claim: "db/data-0", State: string(node.Reconnecting), Guard: "dm", Requests: 3, Outages: 2, OutageSeconds: 7.5, Swaps: 1, WaitingSince: &since},
		{ID: "foreign", State: string(node.Connected), Guard: "kernel"},
	}
}

func (source) Sessions() []control.Session {
	return []control.Session{{NQN: "nqn.x", Volumes: 2, Outages: 3, Reconnects: 1}, {NQN: "nqn.y", Live: true}}
}

// gathered are all series of a registry, as NAME{LABEL=VALUE,…}, with their values.
func gathered(t *testing.T, collectors ...prometheus.Collector) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	for _, c := range collectors {
		r.MustRegister(c)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := f.GetName() + "{" + strings.Join(labels, ",") + "}"
			out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

func TestCollect(t *testing.T) {
	t.Parallel()
	calls, counted := NewCalls()
	calls.Saw("NodeStageVolume", "OK", time.Second)
	got := gathered(t, New(source{}), counted)
	if outage := got["holdfast_volume_outage_seconds{volume_id=box1:a}"]; outage < 3600 || outage > 3700 {
		t.Errorf("the outage lasts %v s", outage)
	}
	delete(got, "holdfast_volume_outage_seconds{volume_id=box1:a}")
	want := map[string]float64{
		"holdfast_csi_call_seconds{code=OK,method=NodeStageVolume}":                        1,
		"holdfast_volume_info{namespace=db,persistentvolumeclaim=data-0,volume_id=box1:a}": 1,
		"holdfast_volume_info{namespace=,persistentvolumeclaim=,volume_id=foreign}":        1,
		"holdfast_volume_state{guard=dm,state=Reconnecting,volume_id=box1:a}":              1,
		"holdfast_volume_state{guard=kernel,state=Connected,volume_id=foreign}":            1,
		"holdfast_volume_outage_seconds{volume_id=foreign}":                                0,
		"holdfast_volume_outages_total{volume_id=box1:a}":                                  2,
		"holdfast_volume_outages_total{volume_id=foreign}":                                 0,
		"holdfast_volume_outage_seconds_total{volume_id=box1:a}":                           7.5,
		"holdfast_volume_outage_seconds_total{volume_id=foreign}":                          0,
		"holdfast_volume_guard_swaps_total{volume_id=box1:a}":                              1,
		"holdfast_volume_guard_swaps_total{volume_id=foreign}":                             0,
		"holdfast_volume_requests{volume_id=box1:a}":                                       3,
		"holdfast_volume_requests{volume_id=foreign}":                                      0,
		"holdfast_session_live{nqn=nqn.x}":                                                 0,
		"holdfast_session_live{nqn=nqn.y}":                                                 1,
		"holdfast_session_volumes{nqn=nqn.x}":                                              2,
		"holdfast_session_volumes{nqn=nqn.y}":                                              0,
		"holdfast_session_outages_total{nqn=nqn.x}":                                        3,
		"holdfast_session_outages_total{nqn=nqn.y}":                                        0,
		"holdfast_session_reconnects_total{nqn=nqn.x}":                                     1,
		"holdfast_session_reconnects_total{nqn=nqn.y}":                                     0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// What the chart's alerts and dashboard and the documents ask for is there: a rule over
// a name or a state that nobody exports never fires.
func TestWhatIsAskedForExists(t *testing.T) {
	t.Parallel()
	calls, counted := NewCalls()
	calls.Saw("NodeStageVolume", "OK", time.Second)
	var names []string
	for series := range gathered(t, New(source{}), counted) {
		name, _, _ := strings.Cut(series, "{")
		names = append(names, name)
	}
	states := []string{
		string(node.Connected), string(node.Reconnecting), string(node.Refused), string(node.Fenced), string(node.Detached), string(node.Lost), string(node.Failed),
	}
	name, state := regexp.MustCompile(`holdfast_(?:volume|session|csi)_[a-z_]+`), regexp.MustCompile(`state=~?"([^"]*)"`)
	for _, path := range []string{"deploy/chart/holdfast/templates/monitoring.yaml", "deploy/chart/holdfast/files/dashboard.json", "docs/faults.md"} {
		text, err := os.ReadFile("../../" + path)
		if err != nil {
			t.Fatal(err)
		}
		found := name.FindAllString(string(text), -1)
		if len(found) == 0 {
			t.Errorf("%s asks for nothing", path)
		}
		for _, n := range found {
			if !slices.Contains(names, n) {
				t.Errorf("%s: %s is not exported", path, n)
			}
		}
		for _, m := range state.FindAllStringSubmatch(string(text), -1) {
			for s := range strings.SplitSeq(m[1], "|") {
				if !slices.Contains(states, s) {
					t.Errorf("%s: %q is no state, there are %v", path, s, states)
				}
			}
		}
	}
}
