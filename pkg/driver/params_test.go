package driver

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

var defaultParams = NVMEConnectionParams{CtrlLossTmo: -1, ReconnectDelay: 5, EagerReconnect: true}

func with(change func(*NVMEConnectionParams)) NVMEConnectionParams {
	p := defaultParams
	change(&p)
	return p
}

func TestParseNVMEConnectionParams(t *testing.T) {
	for _, c := range []struct {
		name   string
		params map[string]string
		want   NVMEConnectionParams
	}{
		{"nil", nil, defaultParams},
		{"empty", map[string]string{}, defaultParams},
		{"foreign keys", map[string]string{"pool": "a", "ctrllosstmo": "7", "csi.storage.k8s.io/fstype": "xfs"}, defaultParams},
		{
			"the three", map[string]string{paramCtrlLossTmo: "600", paramReconnectDelay: "10", paramKeepAliveTmo: "30"},
			NVMEConnectionParams{CtrlLossTmo: 600, ReconnectDelay: 10, KeepAliveTmo: 30, EagerReconnect: true},
		},
		{"the kernel's loss time", map[string]string{paramCtrlLossTmo: "0"}, with(func(p *NVMEConnectionParams) { p.CtrlLossTmo = 0 })},
		{
			"all others",
			map[string]string{
				paramFastIOFailTmo: "9", paramNrIOQueues: "4", paramNrWriteQueues: "2", paramNrPollQueues: "1", paramQueueSize: "16",
				paramTOS: "255", paramHdrDigest: "true", paramDataDigest: "true", paramDisableSQFlow: "true", paramEager: "false",
			},
			NVMEConnectionParams{
				CtrlLossTmo: -1, ReconnectDelay: 5, FastIOFailTmo: 9, NrIOQueues: 4, NrWriteQueues: 2, NrPollQueues: 1, QueueSize: 16,
				TOS: 255, HdrDigest: true, DataDigest: true, DisableSQFlow: true,
			},
		},
		{"switches off", map[string]string{paramHdrDigest: "false", paramEager: "true"}, defaultParams},
		{
			"the most that the kernel can add up", map[string]string{paramCtrlLossTmo: "2147483643", paramReconnectDelay: "5"},
			with(func(p *NVMEConnectionParams) { p.CtrlLossTmo = 2147483643 }),
		},
		{
			"the longest delay and keep-alive", map[string]string{paramReconnectDelay: "2147483", paramKeepAliveTmo: "2147483"},
			with(func(p *NVMEConnectionParams) { p.ReconnectDelay, p.KeepAliveTmo = 2147483, 2147483 }),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseNVMEConnectionParams(c.params)
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
}

// notNumbers break the syntax of every number. What is wrapped beside
// volume.ErrInvalid is strconv's error.
var notNumbers = []string{"", " ", "abc", "5s", " 5", "5 ", "5\n", "+5", "0x5", "0b1", "1e3", "5.0", "1_000", "٥", "--1", "-", "007", "-0", "00", "true"}

func TestParseRefusesWhatIsNoNumber(t *testing.T) {
	for _, r := range numberRules {
		for _, v := range notNumbers {
			err := refused(t, r.key, map[string]string{r.key: v})
			if !errors.Is(err, strconv.ErrSyntax) {
				t.Errorf("%s=%q: %v does not wrap strconv.ErrSyntax", r.key, v, err)
			}
		}
		if err := refused(t, r.key, map[string]string{r.key: "9223372036854775808"}); !errors.Is(err, strconv.ErrRange) {
			t.Errorf("%s: %v does not wrap strconv.ErrRange", r.key, err)
		}
	}
	for _, r := range switchRules {
		for _, v := range []string{"", "1", "0", "yes", "True", "TRUE", "t", " true", "on"} {
			refused(t, r.key, map[string]string{r.key: v})
		}
	}
}

func TestParseRefusesWhatTheKernelWould(t *testing.T) {
	for key, values := range map[string][]string{
		paramCtrlLossTmo:    {"-2", "2147483648", "-2147483648", "2147483644"}, // the last: + delay 5 - 1 overflows
		paramReconnectDelay: {"0", "-1", "2147484", "2147483647"},
		paramKeepAliveTmo:   {"-1", "2147484", "4294967296"},
		paramFastIOFailTmo:  {"-1", "2147484"},
		paramNrIOQueues:     {"-1", "65536"},
		paramNrWriteQueues:  {"-1", "65536"},
		paramNrPollQueues:   {"-1", "65536"},
		paramQueueSize:      {"-1", "1", "15", "1025"},
		paramTOS:            {"-1", "256"},
	} {
		for _, v := range values {
			refused(t, key, map[string]string{key: v})
		}
	}
	refused(t, paramCtrlLossTmo, map[string]string{paramCtrlLossTmo: "2147480000", paramReconnectDelay: "2147483"})
}

// refused checks that the error names key and value and wraps ErrInvalid, and
// that no half-read result comes with it.
func refused(t *testing.T, key string, params map[string]string) error {
	t.Helper()
	p, err := ParseNVMEConnectionParams(params)
	if err == nil || p != (NVMEConnectionParams{}) {
		t.Errorf("%v: got %+v, %v", params, p, err)
		return err
	}
	if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "parameter "+key+":") || !strings.Contains(err.Error(), "want") {
		t.Errorf("%v: %v", params, err)
	}
	if v := params[key]; !strings.Contains(err.Error(), strconv.Quote(v)) && !strings.Contains(err.Error(), "value "+v+":") {
		t.Errorf("%v: %v does not name the value", params, err)
	}
	return err
}

func TestConnectionKeys(t *testing.T) {
	keys := ConnectionKeys()
	if !slices.IsSorted(keys) || len(keys) != 13 {
		t.Errorf("keys %v", keys)
	}
	if got := slices.Sorted(maps.Keys(ToVolumeContext(defaultParams))); !slices.Equal(got, keys) {
		t.Errorf("a volume context has %v, want %v", got, keys)
	}
	for want, key := range map[string]string{"ctrlLossTmo": paramCtrlLossTmo, "reconnectDelay": paramReconnectDelay, "keepAliveTmo": paramKeepAliveTmo} {
		if key != want {
			t.Errorf("key %q, want %q", key, want)
		}
	}
}

func TestConfig(t *testing.T) {
	if got := defaultParams.Config(); got != nvme.DefaultConnectionConfig() {
		t.Errorf("got %+v", got)
	}
	p := NVMEConnectionParams{
		CtrlLossTmo: 1, ReconnectDelay: 2, KeepAliveTmo: 3, FastIOFailTmo: 4, NrIOQueues: 5, NrWriteQueues: 6, NrPollQueues: 7,
		QueueSize: 80, TOS: 9, HdrDigest: true, DataDigest: true, DisableSQFlow: true,
	}
	want := nvme.ConnectionConfig{
		CtrlLossTmo: 1, ReconnectDelay: 2, KeepAliveTmo: 3, FastIOFailTmo: 4, NrIOQueues: 5, NrWriteQueues: 6, NrPollQueues: 7,
		QueueSize: 80, TOS: 9, HdrDigest: true, DataDigest: true, DisableSQFlow: true,
	}
	if got := p.Config(); got != want {
		t.Errorf("got %+v", got)
	}
}

// Profiles decide which volumes share a session: they must differ exactly when
// the options do.
func TestProfile(t *testing.T) {
	seen := map[string]string{defaultParams.Profile(): "the default"}
	for _, r := range numberRules {
		p := defaultParams
		*r.field(&p) = 77
		if other, ok := seen[p.Profile()]; ok {
			t.Errorf("%s has the profile of %s", r.key, other)
		}
		seen[p.Profile()] = r.key
	}
	for _, r := range switchRules {
		p := defaultParams
		*r.field(&p) = !*r.field(&p)
		if other, ok := seen[p.Profile()]; ok {
			t.Errorf("%s has the profile of %s", r.key, other)
		}
		seen[p.Profile()] = r.key
	}
	for range 50 { // maps have no order, profiles do
		p, err := ParseNVMEConnectionParams(ToVolumeContext(defaultParams))
		if err != nil || p.Profile() != defaultParams.Profile() {
			t.Fatalf("%q, %v", p.Profile(), err)
		}
	}
}

// FuzzParams: what is accepted survives the way through a volume context, and is
// something that the kernel can compute with.
func FuzzParams(f *testing.F) {
	f.Add("-1", "5", "0", "0", "0", "128", "0", "true")
	f.Add("2147483643", "5", "2147483", "1", "65535", "16", "255", "false")
	f.Add("+5", " 1", "0x1", "", "1e3", "15", "256", "yes")
	f.Fuzz(func(t *testing.T, loss, delay, alive, fast, queues, size, tos, eager string) {
		p, err := ParseNVMEConnectionParams(map[string]string{
			paramCtrlLossTmo: loss, paramReconnectDelay: delay, paramKeepAliveTmo: alive, paramFastIOFailTmo: fast,
			paramNrIOQueues: queues, paramQueueSize: size, paramTOS: tos, paramEager: eager,
		})
		if err != nil {
			if p != (NVMEConnectionParams{}) || !errors.Is(err, volume.ErrInvalid) {
				t.Fatalf("got %+v, %v", p, err)
			}
			return
		}
		again, err := ParseNVMEConnectionParams(ToVolumeContext(p))
		if err != nil || again != p || again.Profile() != p.Profile() {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
		if p.CtrlLossTmo < -1 || p.ReconnectDelay < 1 || p.KeepAliveTmo < 0 {
			t.Fatalf("accepted %+v", p)
		}
		n, d := int32(p.CtrlLossTmo), int32(p.ReconnectDelay)
		if n > 0 && (n+d-1 < 0 || (n+d-1)/d*d < n) || d*1000 < d || int32(p.KeepAliveTmo)*1000 < 0 {
			t.Fatalf("the kernel would overflow on %+v", p)
		}
	})
}
