package nvmet_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/nvmet/nvmettest"
)

// FuzzConverge drives a target through random desired states, stopping short
// at random steps and rebooting now and then, and checks after every single
// step what connected and connecting hosts would notice.
func FuzzConverge(f *testing.F) {
	for seed := range uint64(60) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		w := newWorld(t, seed)
		for range 12 {
			d := w.randomDesired()
			steps := w.plan(d)
			w.run(d, steps[:w.rnd.IntN(len(steps)+1)])
			switch w.rnd.IntN(8) {
			case 0:
				w.k.Reboot()
				w.addForeign()
			case 1, 2, 3:
				w.finish(d)
			}
		}
		w.finish(w.randomDesired())
	})
}

var allPorts = []uint16{1, 2, 3}

// subs are the subsystems of the game and their hosts.
var subs = map[string]string{prefix + "a": host1, prefix + "b": host1, prefix + "c": host2}

const foreign = "nqn.2024-01.elsewhere:x"

type world struct {
	t   *testing.T
	rnd *rand.Rand
	k   *nvmettest.Kernel
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), k: nvmettest.New()}
	w.addForeign()
	return w
}

// addForeign puts up somebody else's subsystem, for a host of ours, on a port
// of its own and on one of ours.
func (w *world) addForeign() {
	w.t.Helper()
	s := testSubsystem(foreign, host1, 9, 1)
	s.Serial = "foreign"
	converge(w.t, w.k, nvmet.Desired{Ports: []nvmet.Port{testPort(9), testPort(3)}, Subsystems: []nvmet.Subsystem{s}})
	if err := w.k.Symlink("subsystems/"+foreign, "ports/3/subsystems/"+foreign); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) randomDesired() nvmet.Desired {
	var d nvmet.Desired
	used := map[uint16]bool{}
	for _, nqn := range slices.Sorted(maps.Keys(subs)) {
		switch w.rnd.IntN(5) {
		case 0: // not mentioned
		case 1:
			d.Absent = append(d.Absent, nqn)
		default:
			var nsids []uint32
			for nsid := range uint32(4) {
				if w.rnd.IntN(2) == 0 {
					nsids = append(nsids, nsid+1)
				}
			}
			port := allPorts[w.rnd.IntN(len(allPorts))]
			used[port] = true
			d.Subsystems = append(d.Subsystems, testSubsystem(nqn, subs[nqn], port, nsids...))
		}
	}
	for _, id := range allPorts {
		if used[id] || w.rnd.IntN(3) == 0 {
			d.Ports = append(d.Ports, testPort(id))
		} else if w.rnd.IntN(2) == 0 {
			d.AbsentPorts = append(d.AbsentPorts, id)
		}
	}
	return d
}

func (w *world) plan(d nvmet.Desired) []nvmet.Step {
	w.t.Helper()
	nqns, _ := scope(d)
	st, err := nvmet.Observe(w.k, nqns, allPorts)
	if err != nil {
		w.t.Fatal(err)
	}
	steps, err := nvmet.Plan(st, d)
	if err != nil {
		w.t.Fatalf("plan: %v\n%s", err, strings.Join(w.k.Dump(), "\n"))
	}
	return steps
}

// view is what matters of a subsystem.
type view struct {
	onPort  bool
	enabled []nvmet.Namespace
	visible []nvmet.Namespace
}

func (w *world) view(nqn string) view {
	return view{onPort: w.k.OnPort(nqn), enabled: w.k.Enabled(nqn), visible: w.k.Visible(nqn, subs[nqn])}
}

// run applies steps one at a time and checks after each.
func (w *world) run(d nvmet.Desired, steps []nvmet.Step) {
	w.t.Helper()
	before := map[string]view{}
	for nqn := range subs {
		before[nqn] = w.view(nqn)
	}
	untouched := w.others(d)
	last := before
	for i, s := range steps {
		if err := nvmet.Apply(w.t.Context(), w.k, steps[i:i+1]); err != nil {
			w.t.Fatal(err)
		}
		now := map[string]view{}
		for nqn := range subs {
			now[nqn] = w.view(nqn)
			if msg := check(d, nqn, before[nqn], last[nqn], now[nqn]); msg != "" {
				w.t.Fatalf("%s: step %d of %d, %s: %s", nqn, i, len(steps), s, msg)
			}
		}
		last = now
	}
	if diff := cmp.Diff(untouched, w.others(d)); diff != "" {
		w.t.Fatalf("others were touched: %s", diff)
	}
}

// check says what is wrong for hosts, if anything.
func check(d nvmet.Desired, nqn string, before, last, now view) string {
	i := slices.IndexFunc(d.Subsystems, func(s nvmet.Subsystem) bool { return s.NQN == nqn })
	if i < 0 {
		if now.onPort && !slices.Equal(now.visible, before.visible) {
			return fmt.Sprintf("hosts see %v of %v", now.visible, before.visible)
		}
		return ""
	}
	want := d.Subsystems[i].Namespaces
	for _, ns := range before.enabled {
		if slices.Contains(want, ns) && !slices.Contains(now.enabled, ns) {
			return fmt.Sprintf("namespace %d was disabled", ns.NSID)
		}
	}
	if now.onPort && !last.onPort && !slices.Equal(now.visible, want) {
		return fmt.Sprintf("appeared with %v, want %v", now.visible, want)
	}
	for _, ns := range before.visible {
		if now.onPort && slices.Contains(want, ns) && !slices.Contains(now.visible, ns) {
			return fmt.Sprintf("namespace %d was taken from the host", ns.NSID)
		}
	}
	return ""
}

// others returns everything that belongs to nobody in d.
func (w *world) others(d nvmet.Desired) []string {
	nqns, _ := scope(d)
	return slices.DeleteFunc(w.k.Dump(), func(line string) bool {
		if strings.Contains(line, foreign) {
			return false
		}
		for _, p := range allPorts {
			if strings.HasPrefix(line, fmt.Sprintf("ports/%d/", p)) {
				return true
			}
		}
		return strings.HasPrefix(line, "hosts/") ||
			slices.ContainsFunc(nqns, func(nqn string) bool { return strings.Contains(line, nqn) })
	})
}

// finish reaches d and checks that nothing is left to do.
func (w *world) finish(d nvmet.Desired) {
	w.t.Helper()
	w.run(d, w.plan(d))
	if left := w.plan(d); len(left) > 0 {
		w.t.Fatalf("not converged: %v", left)
	}
	for _, s := range d.Subsystems {
		if got := w.k.Visible(s.NQN, s.HostNQN); !slices.Equal(got, s.Namespaces) || !w.k.OnPort(s.NQN) {
			w.t.Fatalf("%s: host sees %v, want %v", s.NQN, got, s.Namespaces)
		}
	}
	for _, nqn := range d.Absent {
		if _, err := w.k.ReadDir("subsystems/" + nqn); err == nil {
			w.t.Fatalf("%s still exists", nqn)
		}
	}
}

// TestCrashAtEveryStep cuts off the making and the taking apart at each step,
// by failure and by a dead context, and finishes from what is observed.
func TestCrashAtEveryStep(t *testing.T) {
	full, none := desiredA(), nvmet.Desired{Absent: []string{subA}, AbsentPorts: []uint16{1}}
	for _, way := range [][2]nvmet.Desired{{none, full}, {full, none}} {
		start := func() *nvmettest.Kernel {
			k := nvmettest.New()
			converge(t, k, way[0])
			return k
		}
		total := len(mustPlan(t, start(), way[1]))
		for cut := range total {
			k, n := start(), 0
			crash := errors.New("crash")
			k.SetOnOp(func(string, string) error {
				if n++; n > cut {
					return crash
				}
				return nil
			})
			err := nvmet.Apply(context.Background(), k, mustPlan(t, k, way[1]))
			var se *nvmet.StepError
			if !errors.Is(err, crash) || !errors.As(err, &se) {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			k.SetOnOp(nil)
			converge(t, k, way[1])
			back := start()
			if err := nvmet.Apply(context.Background(), back, mustPlan(t, back, way[1])[:cut]); err != nil {
				t.Fatal(err)
			}
			converge(t, back, way[0])
		}
	}
}
