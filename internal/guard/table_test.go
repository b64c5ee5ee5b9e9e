package guard

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

func TestParseStatus(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text string
		want path
		bad  bool
	}{
		"active":              {"2 0 0 0 1 1 A 0 1 1 259:3 A 0 0", path{"259:3", true, 0}, false},
		"in use":              {"2 0 0 0 1 1 A 0 1 1 259:3 A 0 17", path{"259:3", true, 17}, false},
		"failed":              {"2 0 0 0 1 1 E 0 1 1 7:0 F 3 0", path{"7:0", false, 0}, false},
		"failed, not all out": {"2 0 0 0 1 1 E 0 1 1 7:0 F 3 2", path{"7:0", false, 2}, false},
		"counted down twice":  {"2 0 0 0 1 1 E 0 1 1 259:11 F 1 -3", path{"259:11", false, 0}, false},
		"something queued":    {"2 17 0 0 1 1 E 0 1 1 259:3 F 1 0", path{"259:3", false, 0}, false},
		"bypassed":            {"2 0 0 0 1 1 D 0 1 1 259:3 A 0 0", path{"259:3", true, 0}, false},
		"group failed":        {"2 0 0 0 1 0 E 0 1 1 259:3 F 1 0", path{"259:3", false, 0}, false},
		"hardware handler":    {"2 0 0 1 alua 1 1 A 0 1 1 8:16 A 0 0", path{"8:16", true, 0}, false},
		"selector's own word": {"2 0 0 0 1 1 A 1 x 1 1 8:16 A 0 5", path{"8:16", true, 5}, false},
		"spaces":              {" 2 0  0 0 1 1 A 0 1 1 259:3 A 0 0 ", path{"259:3", true, 0}, false},

		"empty":              {bad: true},
		"linear":             {text: "0 8 linear", bad: true},
		"no path":            {text: "2 0 0 0 0 0", bad: true},
		"two groups":         {text: "2 0 0 0 2 1 A 0 1 1 8:0 A 0 0 E 0 1 1 8:16 A 0 0", bad: true},
		"two paths":          {text: "2 0 0 0 1 1 A 0 2 1 8:0 A 0 0 8:16 A 0 0", bad: true},
		"no state":           {text: "2 0 0 0 1 1 A 0 1 1 259:3", bad: true},
		"another selector":   {text: "2 0 0 0 1 1 A 0 1 0 259:3 A 0", bad: true},
		"and one with two":   {text: "2 0 0 0 1 1 A 0 1 2 259:3 A 0 4096 1", bad: true},
		"another state":      {text: "2 0 0 0 1 1 A 0 1 1 259:3 X 0 0", bad: true},
		"a name for a path":  {text: "2 0 0 0 1 1 A 0 1 1 sda A 0 0", bad: true},
		"half a number":      {text: "2 0 0 0 1 1 A 0 1 1 259: A 0 0", bad: true},
		"a number too long":  {text: "2 0 0 0 1 1 A 0 1 1 2590000000:3 A 0 0", bad: true},
		"no count":           {text: "2 0 0 0 1 1 A 0 1 1 259:3 A 0", bad: true},
		"below no number":    {text: "2 0 0 0 1 1 A 0 1 1 259:3 A 0 x", bad: true},
		"too many features":  {text: "20 0 0 0 1 1 A 0 1 1 259:3 A 0 0", bad: true},
		"negative features":  {text: "-1 0 0 0 1 1 A 0 1 1 259:3 A 0 0", bad: true},
		"enormous features":  {text: "99999999999999999999 0", bad: true},
		"features no number": {text: "x 0 0 0 1 1 A 0 1 1 259:3 A 0 0", bad: true},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseStatus(c.text)
			if got != c.want || errors.Is(err, errStatus) != c.bad {
				t.Errorf("got %+v, %v", got, err)
			}
		})
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
		"2 0 0 0 1 1 A 0 1 1 259:3 A 0 17", "2 0 0 0 1 1 E 0 1 1 7:0 F 3 0", "2 0 0 0 0 0", "", "-1", "1", "0 0 1 1 A",
		"3 queue_if_no_path queue_mode bio 0 1 1 queue-length 0 1 1 259:3 1", "2 queue_mode bio 0 1 1 queue-length 0 1 1 259:3 1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseStatus(text)
		switch {
		case err != nil && (!errors.Is(err, errStatus) || p != path{}):
			t.Errorf("status: %+v with %v", p, err)
		case err == nil && (!isDev(p.dev) || p.below < 0 || !slices.Contains(strings.Fields(text), p.dev)):
			t.Errorf("status: %+v is not of the text", p)
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
func TestMultipathTable(t *testing.T) {
	t.Parallel()
	for _, readOnly := range []bool{false, true} {
		got := multipathTable(Path{Major: 259, Minor: 3, SizeBytes: 4096 + 511}, readOnly)
		if got.Sectors != 8 || got.Target != "multipath" || got.ReadOnly != readOnly {
			t.Errorf("got %+v", got)
		}
		if !tableForm.MatchString(got.Params) || !strings.Contains(got.Params, " 259:3 ") {
			t.Errorf("parameters %q", got.Params)
		}
		if queues, err := parseTable(got.Params); !queues || err != nil {
			t.Errorf("read again: %v, %v", queues, err)
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
	if uuid := Prefix + strings.TrimPrefix(name, namePrefix); len(uuid) >= unix.DM_UUID_LEN {
		t.Errorf("%q: UUID %q of %d bytes", id, uuid, len(uuid))
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

func TestPlan(t *testing.T) {
	t.Parallel()
	p := Path{Major: 259, Minor: 3, SizeBytes: 1 << 20}
	well := State{Path: "259:3", SizeBytes: 1 << 20, Active: true, Queues: true, HasTable: true}
	of := func(change func(*State)) State { s := well; change(&s); return s }
	swap := []step{load, suspend, resume}
	tests := map[string]struct {
		s    State
		want []step
	}{
		"well":              {well, nil},
		"open":              {of(func(s *State) { s.OpenCount = 3 }), nil},
		"nothing yet":       {State{}, []step{load, resume}},
		"loaded once":       {State{NewTable: true}, []step{drop, load, resume}},
		"failed":            {of(func(s *State) { s.Active = false }), []step{reinstate}},
		"given up":          {of(func(s *State) { s.Active, s.Queues = false, false }), []step{queueing, reinstate}},
		"does not queue":    {of(func(s *State) { s.Queues = false }), []step{queueing}},
		"new table":         {of(func(s *State) { s.NewTable = true }), []step{drop}},
		"new table, failed": {of(func(s *State) { s.NewTable, s.Active = true, false }), []step{drop, reinstate}},
		"another path":      {of(func(s *State) { s.Path = "259:4" }), swap},
		"minor is a prefix": {of(func(s *State) { s.Path = "259:33" }), swap},
		"grown":             {of(func(s *State) { s.SizeBytes /= 2 }), swap},
		"another, given up": {of(func(s *State) { s.Path, s.Active, s.Queues = "259:4", false, false }), swap},
		"another, loaded":   {of(func(s *State) { s.Path, s.NewTable = "259:4", true }), append([]step{drop}, swap...)},
		// A suspended target takes no messages.
		"suspended":          {of(func(s *State) { s.Suspended = true }), []step{load, resume}},
		"suspended, failed":  {of(func(s *State) { s.Suspended, s.Active, s.Queues = true, false, false }), []step{load, resume}},
		"suspended, loaded":  {of(func(s *State) { s.Suspended, s.NewTable = true, true }), []step{drop, load, resume}},
		"suspended, another": {of(func(s *State) { s.Suspended, s.Path = true, "259:4" }), []step{load, resume}},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := plan(c.s, p); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// A size that is no whole number of sectors is not that of a table, and must
// not be swapped for ever.
func TestPlanOddSize(t *testing.T) {
	t.Parallel()
	s := State{Path: "259:3", SizeBytes: 1 << 20, Active: true, Queues: true, HasTable: true}
	if got := plan(s, Path{Major: 259, Minor: 3, SizeBytes: 1<<20 + 511}); got != nil {
		t.Errorf("got %q", got)
	}
}

// Every state has a plan that is short, loads once at most, sends messages only
// to a table that is kept and not suspended, and never resumes what it did not
// load.
func TestPlanAllStates(t *testing.T) {
	t.Parallel()
	p := Path{Major: 259, Minor: 3, SizeBytes: 1 << 20}
	for i := range 1 << 7 {
		bit := func(n int) bool { return i>>n&1 == 1 }
		s := State{Active: bit(0), Queues: bit(1), Suspended: bit(2), NewTable: bit(3), HasTable: bit(4), Path: "259:3", SizeBytes: 1 << 20}
		if bit(5) {
			s.Path = "7:0"
		}
		if bit(6) {
			s.SizeBytes = 512
		}
		if err := sensible(s, plan(s, p)); err != nil {
			t.Errorf("%+v: %q: %v", s, plan(s, p), err)
		}
	}
}

func sensible(s State, steps []step) error {
	has := func(x step) bool { return slices.Contains(steps, x) }
	messages := has(queueing) || has(reinstate)
	switch {
	case has(drop) != s.NewTable || has(drop) && steps[0] != drop:
		return errors.New("a new table is dropped first, and only one that is there")
	case has(load) != has(resume):
		return errors.New("what is loaded is resumed, and nothing else")
	case messages && (has(load) || s.Suspended):
		return errors.New("messages to a table that goes, or that is suspended")
	case s.Suspended && !has(resume):
		return errors.New("stays suspended")
	case len(slices.Compact(slices.Sorted(slices.Values(steps)))) != len(steps):
		return fmt.Errorf("a step twice")
	}
	return nil
}
