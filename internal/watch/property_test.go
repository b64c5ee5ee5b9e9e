package watch

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"
)

const (
	// sequences of faults, and their length.
	sequences = 150
	faults    = 25
	// healing bounds how long all may take to serve again: what no uevent told of
	// is found by the audit, and then each pace may have to be waited for.
	healing = audit + rescanMost + feedMost + connectSpare + time.Second
)

// chaos is a world whose watch is driven look by look, without a clock.
type chaos struct {
	*world
	rand  *rand.Rand
	watch *Watch
	now   time.Time
	held  []time.Duration // how long each session has not been live, undisturbed
	trace []string
}

// newChaos has three volumes: of one portal, of two, and one that the kernel
// alone keeps.
func newChaos(seed uint64) *chaos {
	c := &chaos{world: newWorld(3), rand: rand.New(rand.NewPCG(seed, 0)), now: start}
	c.held = make([]time.Duration, len(c.volumes))
	c.volumes[1].Session.Portals = []netip.AddrPort{portal(1), portal(2)}
	delete(c.tables, c.volumes[2].Table)
	c.volumes[2].Table = ""
	c.watch, _ = c.world.watch()
	c.watch.Log = slog.New(slog.DiscardHandler)
	return c
}

// TestConverges: whatever has happened, once nothing is wrong any more all
// volumes serve again in bounded time; and never was a table given what is not
// its volume, nor a volume ended.
func TestConverges(t *testing.T) {
	t.Parallel()
	for seed := range uint64(sequences) {
		c := newChaos(seed)
		for range faults {
			c.trace = append(c.trace, c.fault(c.rand.IntN(len(c.volumes))))
			for range c.rand.IntN(8) {
				c.look(t, time.Duration(1+c.rand.IntN(300))*time.Millisecond)
			}
		}
		c.heal()
		took := time.Duration(0)
		for ; !c.well() && took < healing; took += Every {
			c.look(t, Every)
		}
		for range 20 {
			c.look(t, Every) // it stays well
		}
		if !c.well() {
			t.Errorf("seed %d: not healed after %v: %v, %+v", seed, took, c.watch.reports, c.tables)
		}
		if len(c.wrong) > 0 || c.count("end") > 0 || c.count("remove") > 0 {
			t.Errorf("seed %d: wrong feeds %q, calls %v", seed, c.wrong, c.calls)
		}
		if t.Failed() {
			t.Fatalf("seed %d: %q", seed, c.trace)
		}
	}
}

// look is one look, and all that follows from it.
func (c *chaos) look(t *testing.T, after time.Duration) {
	t.Helper()
	c.now = c.now.Add(after)
	c.watch.once(t.Context(), c.now)
	for len(c.watch.acts.running) > 0 {
		(<-c.watch.acts.done)()
	}
	for i, v := range c.volumes {
		if c.held[i] += after; c.live(i) || len(c.fail) > 0 {
			c.held[i] = 0
		}
		if t2 := c.tables[v.Table]; t2 != nil && c.held[i] > time.Second && t2.Active && t2.Queues && !t2.Suspended {
			t.Errorf("%s: nothing is live, and I/O is not held back; %q", v.ID, c.trace)
		}
	}
}

func (c *chaos) live(i int) bool {
	for _, x := range c.controllers {
		if x.NQN == nqnOf(i) && x.State == "live" {
			return true
		}
	}
	return false
}

// well says whether every volume is served by its own device, and the watch
// knows it.
func (c *chaos) well() bool {
	for _, v := range c.volumes {
		d, there := c.disks[v.Session.NQN]
		r, known := c.watch.Report(v.ID)
		if !there || !known || r.State != Serving || v.Identity.Check(d) != nil {
			return false
		}
		if t := c.tables[v.Table]; t != nil && t.State != servingOn(d) {
			return false
		}
	}
	return true
}

// fault changes one thing, for better or worse, and tells which. What the
// kernel announces it announces only sometimes: uevents can be lost.
func (c *chaos) fault(i int) string {
	nqn, table := nqnOf(i), c.tables[c.volumes[i].Table]
	said := c.rand.IntN(3) > 0
	if said {
		c.watch.seen.stale = true
	}
	kinds := []struct {
		name string
		do   func()
	}{
		{"connecting", func() { c.setState(i, "connecting") }},
		{"one controller changes", func() { c.controllers[c.rand.IntN(max(1, len(c.controllers)))].State = c.anyState() }},
		{"live", func() { c.setState(i, "live") }},
		{"given up", func() { c.giveUp(i) }},
		{"deleting", func() { c.setState(i, "deleting (no IO)") }},
		{"network away", func() { c.network = false }},
		{"network back", func() { c.network = true }},
		{"disk hidden", func() { c.hidden[nqn] = true; c.scan(nqn) }},
		{"disk renumbered", func() { delete(c.disks, nqn); c.scan(nqn) }},
		{"another volume in its place", func() { c.export(i, otherUUID, 0) }},
		{"another volume, renumbered", func() { delete(c.disks, nqn); c.export(i, otherUUID, 0) }},
		{"the volume again", func() { c.export(i, uuidOf(i), 0) }},
		{"grown", func() { c.export(i, c.exported[nqn].UUID, size) }},
		{"withdrawn from the host", func() { d := c.exported[nqn]; d.NSID = 9; c.exported[nqn] = d; delete(c.disks, nqn); c.scan(nqn) }},
		{"a call fails", func() { c.fail[c.anyCall(i)] = errFake }},
		{"a call is in vain", func() { c.fail[c.anyCall(i)] = errInVain }},
		{"no call fails", func() { clear(c.fail) }},
		{"path fails", func() { c.ofTable(table, func() { table.Active = false }) }},
		{"suspended", func() { c.ofTable(table, func() { table.Suspended = true }) }},
		{"new table", func() { c.ofTable(table, func() { table.NewTable = true }) }},
		{"does not queue", func() { c.ofTable(table, func() { table.Queues = false }) }},
	}
	k := kinds[c.rand.IntN(len(kinds))]
	if len(c.controllers) > 0 {
		k.do()
	} else {
		c.connect(c.volumes[i].Session)
	}
	return fmt.Sprintf("%v v%d: %s (%v)", c.now.Sub(start), i, k.name, said)
}

func (c *chaos) anyState() string {
	states := []string{"new", "live", "resetting", "connecting", "deleting", "dead"}
	return states[c.rand.IntN(len(states))]
}

func (c *chaos) anyCall(i int) string {
	calls := []string{
		"controllers ", "list ", "session " + nqnOf(i), "state " + tableOf(i), "feed " + tableOf(i),
		"hold " + tableOf(i), "restore " + nqnOf(i), "rescan " + nqnOf(i),
	}
	return calls[c.rand.IntN(len(calls))]
}

// export changes what the storage host has under volume i's NSID.
func (c *chaos) export(i int, id uuid.UUID, more int64) {
	d := c.exported[nqnOf(i)]
	d.UUID, d.NSID = id, 1
	d.SizeBytes += more
	c.exported[nqnOf(i)] = d
	c.scan(nqnOf(i))
}

// ofTable changes a table with an event, if there is one.
func (*chaos) ofTable(t *fakeTable, change func()) {
	if t != nil {
		change()
		t.events++
	}
}

// heal makes all that is not the watch's to heal as it should be. A disk that
// needs a rescan, a table in any state and a session that is gone are its own.
func (c *chaos) heal() {
	c.network = true
	clear(c.fail)
	for i := range c.volumes {
		c.setState(i, "live")
		c.export(i, uuidOf(i), 0)
	}
}
