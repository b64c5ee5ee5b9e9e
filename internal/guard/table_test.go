package guard

import (
	"errors"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/dm"
)

func TestParseStatus(t *testing.T) {
	t.Parallel()
	at := func(dev string, active, inUse bool, busy int) path {
		return path{dev: dev, active: active, inUse: inUse, busy: busy}
	}
	one := func(dev string, active bool, busy int) []path { return []path{at(dev, active, true, busy)} }
	tests := map[string]struct {
		text string
		want []path // nil: an error
	}{
		"well":                {"2 0 0 0 2 1 A 0 1 1 254:1 A 0 7 E 0 1 1 254:2 F 1 0", []path{at("254:1", true, true, 7), at("254:2", false, false, 0)}},
		"stands by":           {"2 0 0 0 2 1 A 0 1 1 254:1 A 0 7 E 0 1 1 254:2 A 0 0", []path{at("254:1", true, true, 7), at("254:2", true, false, 0)}},
		"held":                {"2 0 0 0 2 2 E 0 1 1 254:1 F 1 3 A 0 1 1 254:2 A 1 4", []path{at("254:1", false, false, 3), at("254:2", true, true, 4)}},
		"one path":            {"2 0 0 0 1 1 A 0 1 1 259:3 A 0 17", one("259:3", true, 17)},
		"failed":              {"2 0 0 0 1 1 E 0 1 1 7:0 F 3 0", one("7:0", false, 0)},
		"counted down twice":  {"2 0 0 0 1 1 E 0 1 1 259:11 F 1 -3", one("259:11", false, 0)},
		"something queued":    {"2 17 0 0 1 1 E 0 1 1 259:3 F 1 0", one("259:3", false, 0)},
		"bypassed":            {"2 0 0 0 1 1 D 0 1 1 259:3 A 0 0", one("259:3", true, 0)},
		"group failed":        {"2 0 0 0 1 0 E 0 1 1 259:3 F 1 0", []path{at("259:3", false, false, 0)}},
		"hardware handler":    {"2 0 0 1 alua 1 1 A 0 1 1 8:16 A 0 0", one("8:16", true, 0)},
		"selector's own word": {"2 0 0 0 1 1 A 1 x 1 1 8:16 A 0 5", one("8:16", true, 5)},
		"two paths a group":   {"2 0 0 0 1 1 A 0 2 1 8:0 A 0 0 8:16 A 0 1", []path{at("8:0", true, true, 0), at("8:16", true, true, 1)}},
		"spaces":              {" 2 0  0 0 1 1 A 0 1 1 259:3 A 0 0 ", one("259:3", true, 0)},

		"empty":              {"", nil},
		"linear":             {"0 8 linear", nil},
		"no path":            {"2 0 0 0 0 0", nil},
		"no state":           {"2 0 0 0 1 1 A 0 1 1 259:3", nil},
		"second group gone":  {"2 0 0 0 2 1 A 0 1 1 254:1 A 0 7", nil},
		"another selector":   {"2 0 0 0 1 1 A 0 1 0 259:3 A 0", nil},
		"and one with two":   {"2 0 0 0 1 1 A 0 1 2 259:3 A 0 4096 1", nil},
		"another state":      {"2 0 0 0 1 1 A 0 1 1 259:3 X 0 0", nil},
		"a name for a path":  {"2 0 0 0 1 1 A 0 1 1 sda A 0 0", nil},
		"half a number":      {"2 0 0 0 1 1 A 0 1 1 259: A 0 0", nil},
		"a number too long":  {"2 0 0 0 1 1 A 0 1 1 2590000000:3 A 0 0", nil},
		"no count":           {"2 0 0 0 1 1 A 0 1 1 259:3 A 0", nil},
		"below no number":    {"2 0 0 0 1 1 A 0 1 1 259:3 A 0 x", nil},
		"too many features":  {"20 0 0 0 1 1 A 0 1 1 259:3 A 0 0", nil},
		"negative features":  {"-1 0 0 0 1 1 A 0 1 1 259:3 A 0 0", nil},
		"enormous features":  {"99999999999999999999 0", nil},
		"features no number": {"x 0 0 0 1 1 A 0 1 1 259:3 A 0 0", nil},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseStatus(c.text)
			if !reflect.DeepEqual(got, c.want) || errors.Is(err, errStatus) != (c.want == nil) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestParseLinear(t *testing.T) {
	t.Parallel()
	for want, target := range map[string]dm.Target{
		"259:3": {Type: "linear", Text: "259:3 0"},
		"7:0":   {Type: "linear", Text: "7:0 0"},
	} {
		if got := parseLinear(target); got != want {
			t.Errorf("%+v: got %q", target, got)
		}
	}
	for _, target := range []dm.Target{
		{}, {Type: "error"}, {Type: "linear"}, {Type: "linear", Text: "259:3"}, {Type: "linear", Text: "259:3 8"},
		{Type: "linear", Text: "sda 0"}, {Type: "striped", Text: "259:3 0"}, {Type: "linear", Text: "259:3 0 0"},
	} {
		if got := parseLinear(target); got != "" {
			t.Errorf("%+v: got %q", target, got)
		}
	}
}

func TestParseDelay(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]bool{
		"253:1 0 4294967295":                        {true, false},
		"253:1 0 50":                                {true, false},
		"253:1 0 0 253:1 0 4294967295":              {false, true},
		"253:1 0 0 253:1 0 4294967295 253:1 0 1000": {false, true},
		"253:1 0": {},
		"":        {},
	} {
		if waits, standsBy := parseDelay(dm.Target{Type: "delay", Text: text}); waits != want[0] || standsBy != want[1] {
			t.Errorf("%q: waits %v, stands by %v", text, waits, standsBy)
		}
	}
	if waits, standsBy := parseDelay(dm.Target{Type: "flakey", Text: "253:1 0 0 1"}); waits || standsBy {
		t.Error("a wall keeps something")
	}
}

func TestParseTable(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text        string
		queues, bad bool
	}{
		"queues":             {"3 queue_if_no_path queue_mode bio 0 1 1 queue-length 0 1 1 259:3 1", true, false},
		"does not":           {"2 queue_mode bio 0 1 1 queue-length 0 1 1 259:3 1", false, false},
		"no features":        {"0 0 1 1 queue-length 0 1 1 259:3 1", false, false},
		"not among features": {"0 0 1 1 queue_if_no_path", false, false},
		"another order":      {"3 queue_mode bio queue_if_no_path 0 1 1 queue-length 0 1 1 259:3 1", true, false},
		"empty":              {"", false, true},
		"too few":            {"3 queue_if_no_path", false, true},
		"negative":           {"-3 queue_if_no_path", false, true},
		"no number":          {"queue_if_no_path", false, true},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			queues, err := parseTable(c.text)
			if queues != c.queues || errors.Is(err, errStatus) != c.bad {
				t.Errorf("got %v, %v", queues, err)
			}
		})
	}
}

// Any text is read to a device number and a state, or to an error; never both.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"2 0 0 0 2 1 A 0 1 1 254:1 A 0 7 E 0 1 1 254:2 F 1 0", "2 0 0 0 1 1 A 0 1 1 259:3 A 0 17", "2 0 0 0 1 1 E 0 1 1 7:0 F 3 0", "2 0 0 0 0 0", "", "-1", "1", "0 0 1 1 A",
		"3 queue_if_no_path queue_mode bio 0 1 1 queue-length 0 1 1 259:3 1", "2 queue_mode bio 0 1 1 queue-length 0 1 1 259:3 1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		paths, err := parseStatus(text)
		if err != nil && (!errors.Is(err, errStatus) || paths != nil) || err == nil && len(paths) == 0 {
			t.Errorf("status: %+v with %v", paths, err)
		}
		for _, p := range paths {
			if !isDev(p.dev) || p.busy < 0 || !slices.Contains(strings.Fields(text), p.dev) {
				t.Errorf("status: %+v is not of the text", p)
			}
		}
		queues, err := parseTable(text)
		if err != nil && (!errors.Is(err, errStatus) || queues) {
			t.Errorf("table: %v with %v", queues, err)
		}
		if queues && !strings.Contains(text, "queue_if_no_path") {
			t.Error("table: queues without saying so")
		}
	})
}

// The table loaded says of itself, once the kernel repeats it, that it queues.
func TestTables(t *testing.T) {
	t.Parallel()
	for _, readOnly := range []bool{false, true} {
		got := multipathTable("254:1", "254:2", 8, readOnly)
		if got.Sectors != 8 || got.Target != "multipath" || got.ReadOnly != readOnly {
			t.Errorf("got %+v", got)
		}
		if m := tableForm.FindStringSubmatch(got.Params); m == nil || m[1] != "254:1" || m[2] != "254:2" {
			t.Errorf("parameters %q", got.Params)
		}
		if queues, err := parseTable(got.Params); !queues || err != nil {
			t.Errorf("read again: %v, %v", queues, err)
		}
		p := Path{Major: 259, Minor: 3, SizeBytes: 4096 + 511}
		leg := linearTable(p, readOnly)
		if leg.Sectors != 8 || leg.ReadOnly != readOnly || parseLinear(dm.Target{Type: leg.Target, Text: leg.Params}) != p.dev() {
			t.Errorf("got %+v", leg)
		}
	}
}

var goodName = regexp.MustCompile(`^holdfast-[A-Za-z0-9.-]*-[0-9a-f]{16}-g[0-9]+$`)

func checkName(t *testing.T, id string, generation uint64) {
	t.Helper()
	name := Name(id, generation)
	if !goodName.MatchString(name) || len(name) >= unix.DM_NAME_LEN {
		t.Errorf("%q: name %q of %d bytes", id, name, len(name))
	}
	if table, isLeg := tableOf(name); isLeg || table != name {
		t.Errorf("%q: name %q is one of a leg", id, name)
	}
	for _, other := range []string{name + legSuffix, name + wallSuffix} {
		if table, belongs := tableOf(other); !belongs || table != name {
			t.Errorf("%q: %q is of %q", id, other, table)
		}
		if uuid := uuidOf(other); len(other) >= unix.DM_NAME_LEN || len(uuid) >= unix.DM_UUID_LEN {
			t.Errorf("%q: %q, UUID %q", id, other, uuid)
		}
	}
	if Name(id, generation) != name || Name(id, generation+1) == name || Name(id+"x", generation) == name {
		t.Errorf("%q: name %q is not that of this volume and generation alone", id, name)
	}
}

func TestName(t *testing.T) {
	t.Parallel()
	// Those of a line look the same once only what is plain is left.
	alike := [][]string{
		{"../../x", "..-..-x", "..//..//x", "..\x00..-x"},
		{"pvc-1/2", "pvc-1 2", "pvc-1\n2", "pvc-1\xff2", "pvc-1Ж2"},
		{strings.Repeat("a", 300), strings.Repeat("a", 301), strings.Repeat("a", maxLabel)},
		{strings.Repeat("Ж", 300), strings.Repeat("\xff", 5), "\x00", "/"},
		{""}, {"."}, {".."}, {"control"}, {"holdfast-x"}, {"-"},
	}
	seen := map[string]string{}
	for _, line := range alike {
		for _, id := range line {
			for _, generation := range []uint64{0, 1, math.MaxUint64} {
				checkName(t, id, generation)
				name := Name(id, generation)
				if other, ok := seen[name]; ok {
					t.Errorf("%q and %q have the name %q", id, other, name)
				}
				seen[name] = id
			}
		}
	}
	if got := Name("pvc-1", 7); !strings.HasPrefix(got, "holdfast-pvc-1-") || !strings.HasSuffix(got, "-g7") {
		t.Errorf("nobody can read %q", got)
	}
}

func FuzzName(f *testing.F) {
	f.Add("../../x", uint64(1))
	f.Add(strings.Repeat("Ж", 300), uint64(math.MaxUint64))
	f.Fuzz(func(t *testing.T, id string, generation uint64) {
		checkName(t, id, generation)
		if !utf8.ValidString(Name(id, generation)) {
			t.Error("not a string")
		}
	})
}

// A size that is no whole number of sectors is not that of a table, and must
// not be swapped for ever.
func TestPlanOddSize(t *testing.T) {
	t.Parallel()
	f, g, o := onA(t)
	odd := pathA
	odd.SizeBytes += 511
	must(t, g.Feed(table, odd, false, o.proof))
	wantChanges(t, f)
}
