package watch

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

const (
	ourNQN = "nqn.2026-01.example:v"
	size   = int64(64 << 20)
)

var (
	start     = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	ourUUID   = uuid.MustParse("11111111-2222-3333-4444-555555555555")
	otherUUID = uuid.MustParse("99999999-2222-3333-4444-555555555555")
	testRules = rules{grace: DefaultGrace, dev: "/dev"}
)

// controller is connected to 192.0.2.N:4420.
func controller(name, state string, n int) nvmesysfs.Controller {
	return nvmesysfs.Controller{
		Name: name, NQN: ourNQN, State: state, Transport: "tcp", Traddr: fmt.Sprintf("192.0.2.%d", n), Trsvcid: "4420",
		CtrlLossTmo: -1, ReconnectDelay: 1,
	}
}

func portal(n int) netip.AddrPort { return netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:4420", n)) }

// device is the volume's namespace, with a path through each of controllers.
func device(minor uint32, controllers ...string) nvmesysfs.Namespace {
	return nvmesysfs.Namespace{
		Disk: "nvme1n1", NQN: ourNQN, NSID: 1, UUID: ourUUID, SizeBytes: size, BlockSize: 512, Major: 259, Minor: minor,
		Controllers: controllers,
	}
}

// tableOn is a table as it should be over 259:MINOR.
func tableOn(minor uint32) table {
	return table{State: guard.State{
		OpenCount: 1, SizeBytes: size, Path: fmt.Sprintf("259:%d", minor), Active: true, Queues: true, HasTable: true,
	}}
}

// failed is t with its I/O held back.
func failed(t table) table {
	t.Active, t.Holds = false, true
	return t
}

func ourVolume() Volume {
	return Volume{
		ID: "v", Table: "holdfast-v", Identity: initiator.Identity{NQN: ourNQN, NSID: 1, UUID: ourUUID, SizeBytes: size},
		Session: initiator.Session{NQN: ourNQN, Portals: []netip.AddrPort{portal(1)}, Config: nvme.ConnectionConfig{CtrlLossTmo: -1}},
	}
}

// factsOf are those of a look, at d after start, at a session where all is well.
func factsOf(d time.Duration, vs ...Volume) facts {
	f := facts{
		now: start.Add(d), session: ourVolume().Session, volumes: vs, looked: true,
		controllers: []nvmesysfs.Controller{controller("nvme1", "live", 1)},
		namespaces:  []nvmesysfs.Namespace{device(3, "nvme1")}, tables: map[string]table{},
	}
	for _, v := range vs {
		f.session = v.Session
		f.tables[v.Table] = tableOn(3)
	}
	return f
}

// words tells orders in short.
func words(orders []order) []string {
	var out []string
	for _, o := range orders {
		switch o.act {
		case set:
			out = append(out, fmt.Sprintf("set %s %s=%d", o.setting.controller, o.setting.attribute, o.setting.value))
		case feed:
			out = append(out, fmt.Sprintf("feed %d:%d", o.path.Major, o.path.Minor))
		case end:
			out = append(out, "end "+string(o.why))
		case ask, connect, rescan, retire, hold:
			out = append(out, string(o.act))
		}
	}
	return out
}

// sighting is a row of TestLook: what is changed of a look where all is well,
// and what must come of it.
type sighting struct {
	change func(f *facts, v *Volume)
	state  State
	orders []string
}

func ofTable(change func(t *table)) func(*facts, *Volume) {
	return func(f *facts, v *Volume) {
		t := f.tables[v.Table]
		change(&t)
		f.tables[v.Table] = t
	}
}

func ofDevice(change func(ns *nvmesysfs.Namespace)) func(*facts, *Volume) {
	return func(f *facts, _ *Volume) { change(&f.namespaces[0]) }
}

// both applies one change after the other.
func both(changes ...func(*facts, *Volume)) func(*facts, *Volume) {
	return func(f *facts, v *Volume) {
		for _, c := range changes {
			c(f, v)
		}
	}
}

func stateOfAll(state string) func(*facts, *Volume) {
	return func(f *facts, _ *Volume) {
		for i := range f.controllers {
			f.controllers[i].State = state
		}
	}
}

var (
	held         = ofTable(func(t *table) { t.Active, t.Holds = false, true })
	pathFailed   = ofTable(func(t *table) { t.Active = false })
	tableGone    = ofTable(func(t *table) { *t = table{absent: true} })
	otherDevice  = ofDevice(func(ns *nvmesysfs.Namespace) { ns.UUID = otherUUID })
	untidy       = ofTable(func(t *table) { t.Untidy = true })
	noDevice     = func(f *facts, _ *Volume) { f.namespaces = nil }
	connecting   = stateOfAll("connecting")
	noController = func(f *facts, _ *Volume) { f.controllers, f.namespaces = nil, nil }
	notLooked    = func(f *facts, _ *Volume) { f.looked = false }
	unsettled    = func(_ *facts, v *Volume) { v.Unsettled = true }
	ended        = func(f *facts, v *Volume) {
		v.Ended = true
		ofTable(func(t *table) { t.Active, t.Queues = false, false })(f, v)
	}
	endedHalf = func(_ *facts, v *Volume) { v.Ended = true } // killed between the record and the act
	noTable   = func(_ *facts, v *Volume) { v.Table = "" }
)

// A guarded volume: what one look makes of it, with an empty memory.
func TestLook(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]sighting{
		"all is well":                     {func(*facts, *Volume) {}, Serving, nil},
		"two paths, one away":             {func(f *facts, _ *Volume) { f.controllers = append(f.controllers, controller("nvme2", "connecting", 2)) }, Serving, nil},
		"connecting":                      {connecting, Waiting, []string{"hold"}},
		"resetting":                       {stateOfAll("resetting"), Waiting, []string{"hold"}},
		"deleting":                        {stateOfAll("deleting (no IO)"), Waiting, []string{"hold"}},
		"connecting, held":                {both(connecting, held), Waiting, nil},
		"connecting, does not queue":      {both(connecting, ofTable(func(t *table) { t.Active, t.Queues = false, false })), Waiting, []string{"hold"}},
		"connecting, it goes down":        {both(connecting, ofTable(func(t *table) { t.Queues = false }), func(_ *facts, v *Volume) { v.Finite = true }), Waiting, nil},
		"connecting, not looked":          {both(connecting, notLooked), Waiting, []string{"hold"}},
		"given up by the kernel":          {noController, Waiting, []string{"hold"}},
		"given up by the kernel, held":    {both(noController, held), Waiting, nil},
		"held, and there":                 {held, Waiting, []string{"feed 259:3"}},
		"path failed":                     {pathFailed, Waiting, []string{"feed 259:3"}},
		"connecting, path failed":         {both(connecting, pathFailed), Waiting, []string{"hold"}},
		"connecting, held by half":        {both(connecting, ofTable(func(t *table) { t.Holds = true })), Waiting, []string{"hold"}},
		"namespace missing, path failed":  {both(noDevice, pathFailed), Waiting, []string{"hold"}},
		"untidy":                          {ofTable(func(t *table) { t.Untidy = true }), Serving, []string{"feed 259:3"}},
		"another number":                  {ofDevice(func(ns *nvmesysfs.Namespace) { ns.Minor = 7 }), Waiting, []string{"feed 259:7"}},
		"another number, held":            {both(held, ofDevice(func(ns *nvmesysfs.Namespace) { ns.Minor = 7 })), Waiting, []string{"feed 259:7"}},
		"suspended":                       {ofTable(func(t *table) { t.Suspended = true }), Waiting, []string{"feed 259:3"}},
		"a new table, not put to use":     {ofTable(func(t *table) { t.NewTable = true }), Serving, []string{"feed 259:3"}},
		"does not queue":                  {ofTable(func(t *table) { t.Queues = false }), Waiting, []string{"feed 259:3"}},
		"made, but without a table":       {ofTable(func(t *table) { *t = table{State: guard.State{Suspended: true}} }), Waiting, []string{"feed 259:3"}},
		"grown":                           {ofDevice(func(ns *nvmesysfs.Namespace) { ns.SizeBytes *= 2 }), Serving, []string{"feed 259:3"}},
		"another volume":                  {otherDevice, Refused, []string{"hold"}},
		"another volume, held":            {both(otherDevice, held), Refused, nil},
		"another volume, another number":  {both(otherDevice, held, ofDevice(func(ns *nvmesysfs.Namespace) { ns.Minor = 7 })), Refused, nil},
		"another volume, suspended":       {both(otherDevice, ofTable(func(t *table) { t.Active, t.Suspended = false, true })), Refused, nil},
		"shrunk":                          {ofDevice(func(ns *nvmesysfs.Namespace) { ns.SizeBytes /= 2 }), Refused, []string{"hold"}},
		"another volume, not reachable":   {both(otherDevice, connecting), Waiting, []string{"hold"}},
		"namespace missing":               {both(noDevice, held), Waiting, []string{"rescan"}},
		"namespace missing, not held":     {noDevice, Waiting, []string{"hold"}},
		"another NSID":                    {both(held, ofDevice(func(ns *nvmesysfs.Namespace) { ns.NSID = 2 })), Waiting, []string{"rescan"}},
		"of another subsystem":            {both(held, ofDevice(func(ns *nvmesysfs.Namespace) { ns.NQN = "nqn.other" })), Waiting, []string{"rescan"}},
		"a head without paths":            {both(held, ofDevice(func(ns *nvmesysfs.Namespace) { ns.Controllers = nil })), Waiting, []string{"rescan"}},
		"table absent":                    {tableGone, Lost, nil},
		"table absent, connecting":        {both(tableGone, connecting), Lost, nil},
		"table absent, being staged":      {both(tableGone, unsettled), Waiting, []string{"rescan"}},
		"table there, being staged":       {unsettled, Serving, nil},
		"ended":                           {ended, Failing, []string{"end again"}},
		"ended, still queueing":           {endedHalf, Failing, []string{"end again"}},
		"ended, no table":                 {both(noTable, endedHalf), Failing, nil},
		"ended, connecting":               {both(connecting, ended), Failing, []string{"end again"}},
		"ended, path failed":              {both(held, ended), Failing, []string{"end again"}},
		"ended, absent":                   {both(tableGone, ended), Failing, nil},
		"no table, all is well":           {noTable, Serving, nil},
		"no table, connecting":            {both(noTable, connecting), Waiting, nil},
		"no table, another volume":        {both(noTable, otherDevice), Refused, nil},
		"no table, namespace missing":     {both(noTable, noDevice), Waiting, []string{"rescan"}},
		"no table, another number":        {both(noTable, ofDevice(func(ns *nvmesysfs.Namespace) { ns.Minor = 7 })), Serving, nil},
		"no table, a head without paths":  {both(noTable, ofDevice(func(ns *nvmesysfs.Namespace) { ns.Controllers = nil })), Waiting, []string{"rescan"}},
		"no table, given up by kernel":    {both(noTable, noController), Waiting, nil},
		"no table, ended":                 {both(noTable, ended), Failing, nil},
		"no table, not looked for so far": {both(noTable, notLooked), Waiting, nil},
	} {
		v := ourVolume()
		f := factsOf(0, v)
		c.change(&f, &v)
		var s sessionMemory
		var m volumeMemory
		orders := decideVolume(testRules, f, v, &s, &m)
		if diff := cmp.Diff(c.orders, words(orders)); diff != "" || m.state != c.state {
			t.Errorf("%s: %s, want %s; orders (-want +got):\n%s", name, m.state, c.state, diff)
		}
		if why := m.why != ""; why != (c.state == Refused) {
			t.Errorf("%s: %s because of %q", name, m.state, m.why)
		}
	}
}

// What is not looked at has not changed: whatever the state was, it stays.
func TestNotLooked(t *testing.T) {
	t.Parallel()
	for _, tableName := range []string{"holdfast-v", ""} {
		for before, want := range map[State]State{"": Waiting, Serving: Serving, Waiting: Waiting, Refused: Refused, Lost: Lost} {
			v := ourVolume()
			v.Table = tableName
			f := factsOf(time.Second, v)
			// Misleading on purpose: these are of an earlier look.
			f.looked, f.namespaces = false, nil
			m := volumeMemory{state: before, since: start}
			orders := decideVolume(testRules, f, v, &sessionMemory{}, &m)
			if m.state != want || len(orders) > 0 {
				t.Errorf("table %q, %q became %q with orders %v, want %q and none", tableName, before, m.state, words(orders), want)
			}
			if before != "" && !m.since.Equal(start) {
				t.Errorf("table %q, %q: the state counts as new", tableName, before)
			}
		}
	}
}

// What a feed carries is all that the guard needs.
func TestFeedOrder(t *testing.T) {
	t.Parallel()
	v := ourVolume()
	f := factsOf(0, v)
	f.namespaces[0].Minor, f.namespaces[0].ReadOnly, f.namespaces[0].SizeBytes = 7, true, 2*size
	got := decideVolume(testRules, f, v, &sessionMemory{}, &volumeMemory{})
	want := []order{{act: feed, volume: v, ro: true, path: guard.Path{Disk: "nvme1n1", Node: "/dev/nvme1n1", Major: 259, Minor: 7, SizeBytes: 2 * size}}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(order{}, setting{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// moments steps through time and returns when, in milliseconds since start, a
// decision held an order of the given kind.
func moments(until time.Duration, what act, decide func(d time.Duration) []order) []int64 {
	var out []int64
	for d := time.Duration(0); d <= until; d += 10 * time.Millisecond {
		if slices.ContainsFunc(decide(d), func(o order) bool { return o.act == what }) {
			out = append(out, d.Milliseconds())
		}
	}
	return out
}

// everyHalfSecond is when a session without a live controller is connected, in
// milliseconds of 13 s.
var everyHalfSecond = []int64{0, 250, 750, 1250, 1750, 2250, 2750, 3250, 3750, 4250, 4750, 5250, 5750, 6250, 6750, 7250, 7750, 8250, 8750, 9250, 9750, 10250, 10750, 11250, 11750, 12250, 12750}

func TestConnectPace(t *testing.T) {
	t.Parallel()
	v := ourVolume()
	v.Session.Portals = []netip.AddrPort{portal(1), portal(2)}
	for name, c := range map[string]struct {
		controllers []nvmesysfs.Controller
		moments     []int64
	}{
		"nothing there":                {nil, everyHalfSecond},
		"the other portal is live":     {[]nvmesysfs.Controller{controller("nvme1", "live", 1)}, []int64{0, 250, 750, 1750, 3750, 7750, 12750}},
		"the other is connecting":      {[]nvmesysfs.Controller{controller("nvme1", "connecting", 1)}, everyHalfSecond},
		"both there":                   {[]nvmesysfs.Controller{controller("nvme1", "live", 1), controller("nvme2", "live", 2)}, nil},
		"both there, connecting":       {[]nvmesysfs.Controller{controller("nvme1", "connecting", 1), controller("nvme2", "connecting", 2)}, nil},
		"one is being deleted":         {[]nvmesysfs.Controller{controller("nvme1", "live", 1), controller("nvme2", "deleting", 2)}, []int64{0, 250, 750, 1750, 3750, 7750, 12750}},
		"a dead one is as good as non": {[]nvmesysfs.Controller{controller("nvme1", "dead", 1), controller("nvme2", "connecting", 2)}, everyHalfSecond},
	} {
		var s sessionMemory
		got := moments(13*time.Second, connect, func(d time.Duration) []order {
			f := factsOf(d, v)
			f.controllers = c.controllers
			return decideSession(rules{}, f, &s)
		})
		if diff := cmp.Diff(c.moments, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// What nobody wants any more is not connected: as long as one volume of the
// session is not ended, it is.
func TestConnectIsWanted(t *testing.T) {
	t.Parallel()
	kept, ended := ourVolume(), ourVolume()
	ended.ID, ended.Ended = "w", true
	for name, c := range map[string]struct {
		volumes []Volume
		orders  []string
	}{
		"one kept":          {[]Volume{kept}, []string{"connect"}},
		"one kept, one not": {[]Volume{ended, kept}, []string{"connect"}},
		"one ended":         {[]Volume{ended}, nil},
		"all ended":         {[]Volume{ended, ended}, nil},
	} {
		f := factsOf(0, c.volumes...)
		f.controllers = nil
		var s sessionMemory
		if diff := cmp.Diff(c.orders, words(decideSession(rules{}, f, &s))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if want := len(c.orders); s.failures != want {
			t.Errorf("%s: %d attempts counted, want %d", name, s.failures, want)
		}
	}
}

// Settings are written first: a connect takes long, and they are what makes
// the kernel come back soon.
func TestSettingsComeFirst(t *testing.T) {
	t.Parallel()
	v := ourVolume()
	v.Session.Portals = append(v.Session.Portals, portal(2))
	v.Session.Config.ReconnectDelay = 5
	f := factsOf(0, v)
	f.eager, f.controllers[0].ReconnectDelay = true, 10
	want := []string{"set nvme1 reconnect_delay=1", "connect"}
	if diff := cmp.Diff(want, words(decideSession(rules{}, f, &sessionMemory{}))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSessionMemory(t *testing.T) {
	t.Parallel()
	v := ourVolume()
	var s sessionMemory
	look := func(d time.Duration, controllers ...nvmesysfs.Controller) {
		f := factsOf(d, v)
		f.controllers = controllers
		decideSession(rules{}, f, &s)
	}
	check := func(when string, wasLive bool, lostSince time.Duration, failures int) {
		t.Helper()
		lost := time.Time{}
		if lostSince > 0 {
			lost = start.Add(lostSince)
		}
		if s.wasLive != wasLive || !s.lostSince.Equal(lost) || s.failures != failures {
			t.Errorf("%s: live before %v, lost since %v, %d failures; want %v, %v, %d", when, s.wasLive, s.lostSince, s.failures, wasLive, lost, failures)
		}
	}
	look(1*time.Second, controller("nvme1", "new", 1))
	check("never live so far", false, time.Second, 0)
	look(2*time.Second, controller("nvme1", "live", 1))
	check("live", true, 0, 0)
	look(3*time.Second, controller("nvme1", "connecting", 1))
	check("connecting", true, 3*time.Second, 0)
	s.rescans = 3
	look(4*time.Second, controller("nvme1", "connecting", 1))
	check("still connecting", true, 3*time.Second, 0)
	if s.rescans != 0 || !s.rescanAt.Equal(start.Add(4*time.Second+rescanFirst)) {
		t.Errorf("what is live again scans by itself: rescan %d at %v", s.rescans, s.rescanAt)
	}
	look(5 * time.Second)
	look(6 * time.Second)
	check("gone", true, 3*time.Second, 2)
	look(7*time.Second, controller("nvme2", "connecting", 1))
	check("whole, not live", true, 3*time.Second, 0)
	if !s.connectAt.IsZero() {
		t.Errorf("the next outage begins with a wait until %v", s.connectAt)
	}
	look(8*time.Second, controller("nvme2", "live", 1))
	check("live again", true, 0, 0)
}

func TestRescanPace(t *testing.T) {
	t.Parallel()
	v := ourVolume()
	var s sessionMemory
	var m volumeMemory
	// The session comes back at once: the kernel's own scan is waited for.
	away := factsOf(0, v)
	connecting(&away, &v)
	decideSession(rules{}, away, &s)
	got := moments(15*time.Second, rescan, func(d time.Duration) []order {
		f := factsOf(d, v)
		f.namespaces, f.tables[v.Table] = nil, failed(tableOn(3))
		decideSession(rules{}, f, &s)
		return decideVolume(testRules, f, v, &s, &m)
	})
	if diff := cmp.Diff([]int64{200, 400, 800, 1600, 3200, 6400, 11400}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// All volumes of a session share its rescans.
func TestOneRescanForAll(t *testing.T) {
	t.Parallel()
	v, x := ourVolume(), ourVolume()
	x.ID, x.Table, x.Identity.NSID = "x", "holdfast-x", 2
	f := factsOf(0, v, x)
	f.namespaces, f.tables[v.Table], f.tables[x.Table] = nil, failed(tableOn(3)), failed(tableOn(4))
	var s sessionMemory
	orders := decideVolume(testRules, f, v, &s, &volumeMemory{})
	orders = append(orders, decideVolume(testRules, f, x, &s, &volumeMemory{})...)
	if diff := cmp.Diff([]string{"rescan"}, words(orders)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A device that answers and fails what it is sent is fed ever more slowly.
func TestFeedPace(t *testing.T) {
	t.Parallel()
	v := ourVolume()
	var m volumeMemory
	got := moments(17*time.Second, feed, func(d time.Duration) []order {
		f := factsOf(d, v)
		f.tables[v.Table] = failed(tableOn(3))
		return decideVolume(testRules, f, v, &sessionMemory{}, &m)
	})
	if diff := cmp.Diff([]int64{0, 100, 300, 700, 1500, 3100, 6300, 11300, 16300}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A hold that fails is tried again soon; one of the next outage, at once.
func TestHoldPace(t *testing.T) {
	t.Parallel()
	v := ourVolume()
	var m volumeMemory
	look := func(d time.Duration, change func(*facts, *Volume)) []order {
		f, v := factsOf(d, v), v
		change(&f, &v)
		return decideVolume(testRules, f, v, &sessionMemory{}, &m)
	}
	got := moments(500*time.Millisecond, hold, func(d time.Duration) []order { return look(d, connecting) })
	if diff := cmp.Diff([]int64{0, 200, 400}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	look(510*time.Millisecond, held)
	if got := words(look(520*time.Millisecond, connecting)); !slices.Equal(got, []string{"hold"}) {
		t.Errorf("fed, and lost again: %v", got)
	}
}

// What was ended and serves or holds I/O again, because another call was at the
// table, is ended again.
func TestEndUndone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *table)
		want   []string
	}{
		"ended":     {func(*table) {}, nil},
		"serves":    {func(t *table) { t.Active = true }, []string{"end again"}},
		"holds":     {func(t *table) { t.Holds = true }, []string{"end again"}},
		"queues":    {func(t *table) { t.Queues = true }, []string{"end again"}},
		"suspended": {func(t *table) { t.Suspended = true }, []string{"end again"}},
	} {
		v := ourVolume()
		f := factsOf(0, v)
		both(ended, ofTable(c.change))(&f, &v)
		got := words(decideVolume(testRules, f, v, &sessionMemory{}, &volumeMemory{ended: true}))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// What cannot be held is not tried to be.
func TestHoldNothing(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *table){
		"held":      func(t *table) { t.Active, t.Holds = false, true },
		"suspended": func(t *table) { t.Suspended = true },
		"not seen":  func(t *table) { *t = table{unseen: true} },
		"absent":    func(t *table) { *t = table{absent: true} },
		"empty":     func(t *table) { *t = table{} },
	} {
		v := ourVolume()
		f := factsOf(0, v)
		both(connecting, ofTable(change))(&f, &v)
		if got := words(decideVolume(testRules, f, v, &sessionMemory{}, &volumeMemory{})); len(got) > 0 {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// What the pace of feeding is after a device had failed five times, and then
// these looks were had.
func TestFeedPaceReset(t *testing.T) {
	t.Parallel()
	type then struct {
		after  time.Duration
		change func(*facts, *Volume)
	}
	well := both()
	for name, c := range map[string]struct {
		between []then
		feeds   int
	}{
		"it goes on":              {nil, 6},
		"it served for 9.9 s":     {[]then{{0, well}, {9900 * time.Millisecond, well}}, 6},
		"it served for 10 s":      {[]then{{0, well}, {10 * time.Second, well}}, 1},
		"it served twice for 6 s": {[]then{{0, well}, {6 * time.Second, well}, {7 * time.Second, noDevice}, {8 * time.Second, well}, {14 * time.Second, well}}, 6},
		"the session was away":    {[]then{{0, both(connecting, held)}}, 1},
		"the kernel had given up": {[]then{{0, both(noController, held)}}, 1},
	} {
		m := volumeMemory{state: Waiting, waitSince: start, feeds: 5, feedAt: start.Add(3 * time.Second)}
		look := func(d time.Duration, change func(*facts, *Volume)) []order {
			v := ourVolume()
			f := factsOf(3*time.Second+d, v)
			change(&f, &v)
			return decideVolume(testRules, f, v, &sessionMemory{}, &m)
		}
		failed := time.Second
		for _, b := range c.between {
			look(b.after, b.change)
			failed = b.after + 50*time.Millisecond
		}
		if got := words(look(failed, held)); !slices.Equal(got, []string{"feed 259:3"}) || m.feeds != c.feeds {
			t.Errorf("%s: %v, and feed %d in a row, want %d", name, got, m.feeds, c.feeds)
		}
	}
}

// With a bounded ctrlLossTmo the volume's own clock ends the waiting: not before
// the time is over, and as soon as it is.
func TestExpired(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		loss   int
		change func(*facts, *Volume)
		first  []int64 // of the moments of end; nil is never
	}{
		"5 s":                  {5, both(connecting, held), []int64{5000}},
		"5 s, gone":            {5, both(noController, held), []int64{5000}},
		"5 s, no namespace":    {5, both(noDevice, held), []int64{5000}},
		"5 s, another volume":  {5, both(otherDevice, held), []int64{5000}},
		"5 s, by the kernel":   {5, both(noTable, connecting), []int64{5000}},
		"7 s":                  {7, both(connecting, held), []int64{7000}},
		"for ever":             {-1, both(connecting, held), nil},
		"the kernel's default": {0, both(connecting, held), nil},
		"serving":              {5, both(), nil},
		"ended already":        {5, both(connecting, ended), nil},
	} {
		v := ourVolume()
		v.Session.Config.CtrlLossTmo = c.loss
		m := volumeMemory{ended: true}
		got := moments(10*time.Second, end, func(d time.Duration) []order {
			f, v := factsOf(d, v), v
			c.change(&f, &v)
			orders := decideVolume(testRules, f, v, &sessionMemory{}, &m)
			for _, o := range orders {
				if o.act == end && o.why != Expired {
					t.Errorf("%s: ended as %s", name, o.why)
				}
			}
			return orders
		})
		if diff := cmp.Diff(c.first, got[:min(len(got), 1)]); diff != "" && len(got)+len(c.first) > 0 {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// What is on record as ended is ended until that has succeeded once: whoever did
// it may have been killed before the last step. What queues again is ended again.
func TestEndAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*facts, *Volume)
		done   time.Duration // when an end succeeds; 0 is never
		want   []int64
	}{
		"never succeeds":       {both(connecting, ended), 0, []int64{0, 1000, 2000}},
		"succeeds":             {both(connecting, ended), time.Second, []int64{0, 1000}},
		"still queueing":       {both(connecting, endedHalf), time.Second, []int64{0, 1000, 2000}},
		"no table":             {both(connecting, noTable, ended), 0, nil},
		"table gone":           {both(connecting, tableGone, ended), 0, nil},
		"serving, never ended": {both(), 0, nil},
	} {
		v := ourVolume()
		var m volumeMemory
		got := moments(2500*time.Millisecond, end, func(d time.Duration) []order {
			f, v := factsOf(d, v), v
			c.change(&f, &v)
			out := decideVolume(testRules, f, v, &sessionMemory{}, &m)
			m.ended = m.ended || c.done > 0 && d >= c.done
			return out
		})
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	m := volumeMemory{ended: true}
	v := ourVolume()
	decideVolume(testRules, factsOf(0, v), v, &sessionMemory{}, &m)
	if m.ended {
		t.Error("a volume that was staged anew counts as ended")
	}
}

// The clock is the outage's: one that ended well does not count for the next.
func TestExpiryStartsAnew(t *testing.T) {
	t.Parallel()
	v := ourVolume()
	v.Session.Config.CtrlLossTmo = 5
	var m volumeMemory
	got := moments(20*time.Second, end, func(d time.Duration) []order {
		f := factsOf(d, v)
		if d != 4*time.Second && d != 8*time.Second {
			both(connecting, held)(&f, &v)
		}
		return decideVolume(testRules, f, v, &sessionMemory{}, &m)
	})
	if len(got) == 0 || got[0] != 13010 {
		t.Errorf("ended at %v, want 5 s after 8.01 s", got)
	}
}

func TestWithdrawn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		since  time.Duration // that the storage host has said so
		change func(*facts, *Volume)
		state  State
		orders []string
	}{
		"just said":               {0, both(connecting, held), Fenced, nil},
		"before the grace ends":   {DefaultGrace - time.Nanosecond, both(connecting, held), Fenced, nil},
		"the grace is over":       {DefaultGrace, both(connecting, held), Fenced, []string{"end withdrawn"}},
		"over, another volume":    {DefaultGrace, both(otherDevice, held), Fenced, []string{"end withdrawn"}},
		"over, no namespace":      {DefaultGrace, both(noDevice, held), Fenced, []string{"end withdrawn"}},
		"over, by the kernel":     {DefaultGrace, both(noTable, connecting), Fenced, []string{"end withdrawn"}},
		"over, and it is back":    {DefaultGrace, both(), Serving, nil},
		"before, and it comes":    {time.Second, held, Fenced, []string{"feed 259:3"}},
		"before, and it is asked": {time.Second, both(connecting, held, func(_ *facts, v *Volume) { v.Managed = true }), Fenced, []string{"ask"}},
		"over, nothing more":      {DefaultGrace, both(connecting, held, func(_ *facts, v *Volume) { v.Managed = true }), Fenced, []string{"end withdrawn"}},
		"ended":                   {DefaultGrace, both(connecting, ended), Failing, []string{"end again"}},
	} {
		v := ourVolume()
		f := factsOf(time.Hour, v)
		c.change(&f, &v)
		m := volumeMemory{state: Waiting, waitSince: start, fencedAt: f.now.Add(-c.since)}
		orders := words(decideVolume(testRules, f, v, &sessionMemory{rescanAt: f.now.Add(time.Second)}, &m))
		if diff := cmp.Diff(c.orders, orders); diff != "" || m.state != c.state {
			t.Errorf("%s: %s, want %s; orders (-want +got):\n%s", name, m.state, c.state, diff)
		}
		if m.state == Serving && !m.fencedAt.IsZero() {
			t.Errorf("%s: a volume that serves is fenced", name)
		}
	}
}

// Only a managed volume has somebody to be asked, and not for every blink.
func TestAsk(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		managed bool
		change  func(*facts, *Volume)
		first   []int64
	}{
		"managed":                {true, both(connecting, held), []int64{2000}},
		"managed, no namespace":  {true, both(noDevice, held), []int64{2000}},
		"managed, other volume":  {true, both(otherDevice, held), []int64{2000}},
		"managed, by the kernel": {true, both(noTable, connecting), []int64{2000}},
		"not managed":            {false, both(connecting, held), nil},
		"serving":                {true, both(), nil},
		"ended":                  {true, both(connecting, ended), nil},
	} {
		v := ourVolume()
		v.Managed = c.managed
		var m volumeMemory
		got := moments(3*time.Second, ask, func(d time.Duration) []order {
			f, v := factsOf(d, v), v
			c.change(&f, &v)
			return decideVolume(testRules, f, v, &sessionMemory{}, &m)
		})
		if diff := cmp.Diff(c.first, got[:min(len(got), 1)]); diff != "" && len(got)+len(c.first) > 0 {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A volume that serves and has something left to do is looked at again until nothing
// is.
func TestSettled(t *testing.T) {
	t.Parallel()
	v := ourVolume()
	var m volumeMemory
	for _, c := range []struct {
		after  time.Duration
		change func(*facts, *Volume)
		orders []string
		want   bool
	}{
		{0, both(), nil, true},
		{time.Second, untidy, []string{"feed 259:3"}, false},
		{time.Second + feedFirst/2, untidy, nil, false},
		{2 * time.Second, both(), nil, true},
	} {
		f, v := factsOf(c.after, v), v
		c.change(&f, &v)
		got := words(decideVolume(testRules, f, v, &sessionMemory{}, &m))
		if diff := cmp.Diff(c.orders, got); diff != "" || m.settled(v) != c.want || m.state != Serving {
			t.Errorf("after %v: settled %v, %s, orders (-want +got):\n%s", c.after, m.settled(v), m.state, diff)
		}
	}
}

// A volume's way through one outage, as its memory tells it.
func TestVolumeMemory(t *testing.T) {
	t.Parallel()
	v := ourVolume()
	var m volumeMemory
	look := func(d time.Duration, change func(*facts, *Volume)) {
		f := factsOf(d, v)
		change(&f, &v)
		decideVolume(testRules, f, v, &sessionMemory{}, &m)
	}
	check := func(when string, state State, since, waitSince time.Duration, reconnects int) {
		t.Helper()
		wait := time.Time{}
		if waitSince > 0 {
			wait = start.Add(waitSince)
		}
		if m.state != state || !m.since.Equal(start.Add(since)) || !m.waitSince.Equal(wait) || m.reconnects != reconnects {
			t.Errorf("%s: %+v", when, m)
		}
	}
	look(1*time.Second, both())
	check("serving at first sight", Serving, time.Second, 0, 0)
	look(2*time.Second, both(connecting))
	check("away", Waiting, 2*time.Second, 2*time.Second, 0)
	look(3*time.Second, both(otherDevice, held))
	check("something else is there", Refused, 3*time.Second, 2*time.Second, 0)
	if !strings.Contains(m.why, otherUUID.String()) {
		t.Errorf("refused because of %q, which does not say what is there", m.why)
	}
	look(4*time.Second, held)
	check("it is there", Waiting, 4*time.Second, 2*time.Second, 0)
	look(5*time.Second, both())
	check("serving", Serving, 5*time.Second, 0, 1)
	if m.why != "" {
		t.Errorf("serving, although %q", m.why)
	}
	look(6*time.Second, both())
	check("still serving", Serving, 5*time.Second, 0, 1)
}

func TestCandidate(t *testing.T) {
	t.Parallel()
	v := ourVolume()
	for name, c := range map[string]struct {
		controllers []nvmesysfs.Controller
		device      nvmesysfs.Namespace
		err         string // "" is none
	}{
		"one controller":             {[]nvmesysfs.Controller{controller("nvme1", "live", 1)}, device(3, "nvme1"), ""},
		"the second is live":         {[]nvmesysfs.Controller{controller("nvme1", "connecting", 1), controller("nvme2", "live", 2)}, device(3, "nvme1", "nvme2"), ""},
		"the live one has no path":   {[]nvmesysfs.Controller{controller("nvme1", "connecting", 1), controller("nvme2", "live", 2)}, device(3, "nvme1"), "no path"},
		"none is live":               {[]nvmesysfs.Controller{controller("nvme1", "connecting", 1), controller("nvme2", "resetting", 2)}, device(3, "nvme1", "nvme2"), "no path"},
		"its controller is gone":     {[]nvmesysfs.Controller{controller("nvme2", "live", 2)}, device(3, "nvme1"), "no path"},
		"another one, and reachable": {[]nvmesysfs.Controller{controller("nvme1", "live", 1)}, nvmesysfs.Namespace{Disk: "nvme1n1", NQN: ourNQN, NSID: 1, UUID: otherUUID, SizeBytes: size, Controllers: []string{"nvme1"}}, "not the volume"},
		"not there":                  {[]nvmesysfs.Controller{controller("nvme1", "live", 1)}, nvmesysfs.Namespace{NQN: ourNQN, NSID: 2}, "did not appear"},
	} {
		f := facts{controllers: c.controllers, namespaces: []nvmesysfs.Namespace{c.device}}
		ns, err := f.candidate(v)
		if c.err == "" && (err != nil || ns.Disk != "nvme1n1") || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %q, %v, want %q", name, ns.Disk, err, c.err)
		}
	}
}

func TestMissing(t *testing.T) {
	t.Parallel()
	at := func(traddr, trsvcid, state string) nvmesysfs.Controller {
		return nvmesysfs.Controller{Name: "nvme1", NQN: ourNQN, State: state, Traddr: traddr, Trsvcid: trsvcid}
	}
	for name, c := range map[string]struct {
		portals     []string
		controllers []nvmesysfs.Controller
		want        bool
	}{
		"no portal":                {nil, nil, false},
		"none":                     {[]string{"192.0.2.1:4420"}, nil, true},
		"there":                    {[]string{"192.0.2.1:4420"}, []nvmesysfs.Controller{at("192.0.2.1", "4420", "live")}, false},
		"there, connecting":        {[]string{"192.0.2.1:4420"}, []nvmesysfs.Controller{at("192.0.2.1", "4420", "connecting")}, false},
		"deleting":                 {[]string{"192.0.2.1:4420"}, []nvmesysfs.Controller{at("192.0.2.1", "4420", "deleting")}, true},
		"deleting, and a new one":  {[]string{"192.0.2.1:4420"}, []nvmesysfs.Controller{at("192.0.2.1", "4420", "deleting"), at("192.0.2.1", "4420", "new")}, false},
		"dead":                     {[]string{"192.0.2.1:4420"}, []nvmesysfs.Controller{at("192.0.2.1", "4420", "dead")}, true},
		"another port":             {[]string{"192.0.2.1:4420"}, []nvmesysfs.Controller{at("192.0.2.1", "4421", "live")}, true},
		"one of two":               {[]string{"192.0.2.1:4420", "192.0.2.2:4420"}, []nvmesysfs.Controller{at("192.0.2.2", "4420", "live")}, true},
		"mapped portal":            {[]string{"[::ffff:192.0.2.1]:4420"}, []nvmesysfs.Controller{at("192.0.2.1", "4420", "live")}, false},
		"mapped controller":        {[]string{"192.0.2.1:4420"}, []nvmesysfs.Controller{at("::ffff:192.0.2.1", "4420", "live")}, false},
		"both mapped":              {[]string{"[::ffff:192.0.2.1]:4420"}, []nvmesysfs.Controller{at("::ffff:c000:201", "4420", "live")}, false},
		"IPv6 in another spelling": {[]string{"[2001:db8::1]:4420"}, []nvmesysfs.Controller{at("2001:0db8:0:0:0:0:0:1", "4420", "live")}, false},
		"no IP":                    {[]string{"192.0.2.1:4420"}, []nvmesysfs.Controller{at("nn-0x1:pn-0x2", "", "live")}, true},
	} {
		var f facts
		for _, p := range c.portals {
			f.session.Portals = append(f.session.Portals, netip.MustParseAddrPort(p))
		}
		f.controllers = c.controllers
		if got := f.missing(); got != c.want {
			t.Errorf("%s: missing %v, want %v", name, got, c.want)
		}
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	var got []time.Duration
	for n := range 6 {
		got = append(got, backoff(100*time.Millisecond, time.Second, n)/time.Millisecond)
	}
	if diff := cmp.Diff([]time.Duration{100, 200, 400, 800, 1000, 1000}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// The count of a long outage must not overflow.
	if d := backoff(connectFirst, connectMost, 1<<30); d != connectMost {
		t.Errorf("after very many failures: %v", d)
	}
}
