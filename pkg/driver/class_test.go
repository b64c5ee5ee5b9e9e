package driver

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/backend"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

func TestParseClass(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		params map[string]string
		want   Class
	}{
		"nothing": {nil, Class{Connection: defaultParams, Guard: "auto"}},
		"a place": {map[string]string{"host": "box1", "pool": "fast"}, Class{Where: backend.Placement{Host: "box1", Pool: "fast"}, Connection: defaultParams, Guard: "auto"}},
		"guard":   {map[string]string{"guard": "kernel"}, Class{Connection: defaultParams, Guard: "kernel"}},
		"what sidecars add": {
			map[string]string{"csi.storage.k8s.io/pvc/name": "x", "csi.storage.k8s.io/fstype": "xfs"}, Class{Connection: defaultParams, Guard: "auto", Claim: "x"},
		},
		"connection": {
			map[string]string{paramKeepAliveTmo: "30", paramCtrlLossTmo: "600"},
			Class{Connection: with(func(p *NVMEConnectionParams) { p.KeepAliveTmo, p.CtrlLossTmo = 30, 600 }), Guard: "auto"},
		},
	} {
		got, err := ParseClass(c.params)
		if err != nil || cmp.Diff(c.want, got) != "" {
			t.Errorf("%s: %v %s", name, err, cmp.Diff(c.want, got))
		}
		again, err := ParseNVMEConnectionParams(got.volumeContext())
		if err != nil || again != got.Connection || got.volumeContext()[paramGuard] != got.Guard {
			t.Errorf("%s: the volume context %v is read back as %+v, %v", name, got.volumeContext(), again, err)
		}
	}
}

func TestParseClassRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		key, value string
		says       []string
	}{
		"misspelt":          {"ctrlLossTimeout", "5", []string{`"ctrlLossTimeout"`, `"5"`, "known are", paramCtrlLossTmo}},
		"other spelling":    {"Pool", "fast", []string{`"Pool"`, "known are"}},
		"almost a sidecar":  {"csi.storage.k8s.io", "x", []string{`"csi.storage.k8s.io"`}},
		"static attribute":  {attrNQN, "nqn.2020-01.org.example:x", []string{`"nqn"`}},
		"guard":             {paramGuard, "Kernel", []string{"guard", `"Kernel"`, "auto, kernel or dm"}},
		"host with slash":   {paramHost, "../box", []string{"host", `"../box"`}},
		"host too long":     {paramHost, strings.Repeat("x", 64), []string{"host", "63"}},
		"host with a dot":   {paramHost, "box1.example", []string{"host", `"box1.example"`}},
		"pool upper case":   {paramPool, "Fast", []string{"pool", `"Fast"`}},
		"pool with newline": {paramPool, "fast\n", []string{"pool", `\n`}},
		"long keep-alive":   {paramKeepAliveTmo, "31", []string{paramKeepAliveTmo, "31", "at most 30"}},
		"no number":         {paramReconnectDelay, "1s", []string{paramReconnectDelay, `"1s"`}},
	} {
		got, err := ParseClass(map[string]string{c.key: c.value})
		if !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, got, err)
			continue
		}
		for _, text := range c.says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %q does not say %q", name, err, text)
			}
		}
	}
}

// The claim travels with the volume, whole or not at all.
func TestClaimTravels(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		params map[string]string
		want   string
	}{
		{map[string]string{pvcNamespace: "db", pvcName: "data-0", pvName: "pvc-1"}, "db/data-0"},
		{map[string]string{pvcName: "data-0"}, ""},
		{nil, ""},
	} {
		class, err := ParseClass(c.params)
		if err != nil {
			t.Fatal(err)
		}
		if got := claimOf(class.volumeContext()); got != c.want || class.volumeContext()[pvName] != c.params[pvName] {
			t.Errorf("%v: %q", c.params, got)
		}
	}
}
