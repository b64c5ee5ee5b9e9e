package watch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/dm"
	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

var errFake = errors.New("made to fail by the test")

// world is all that the watch sees and does, in memory: sysfs, the tables, the
// node's workflows and the storage host. Each volume has a session of its own.
type world struct {
	about                   map[string]bool // of the next hint
	hints, changed, resized chan struct{}

	mu          sync.Mutex
	volumes     []Volume
	controllers []nvmesysfs.Controller
	disks       map[string]nvmesysfs.Namespace // what the kernel shows, by NQN
	hidden      map[string]bool                // NQNs whose disk needs a rescan
	exported    map[string]nvmesysfs.Namespace // what the storage host has, by NQN
	tables      map[string]*fakeTable
	network     bool
	withdrawn   map[string]bool
	owner       map[string]Owner         // by volume, what the cluster says; with none in it there is no cluster
	fail        map[string]error         // what fails, by its name in calls
	block       map[string]chan struct{} // what hangs
	calls       map[string]int           // "feed holdfast-v0", and so on
	wrong       []string                 // feeds of what is not the volume
	minors      uint32
	kept        map[string]Clock // on disk
	steady      bool             // Volumes is one list, replaced when it changes, as the real one
}

type fakeTable struct {
	guard.State
	events uint32
}

func newWorld(n int) *world {
	w := &world{
		hints: make(chan struct{}, 1), changed: make(chan struct{}, 1), network: true,
		disks: map[string]nvmesysfs.Namespace{}, hidden: map[string]bool{}, exported: map[string]nvmesysfs.Namespace{},
		tables: map[string]*fakeTable{}, withdrawn: map[string]bool{}, fail: map[string]error{},
		block: map[string]chan struct{}{}, calls: map[string]int{},
	}
	for i := range n {
		w.stage(i)
	}
	return w
}

func nqnOf(i int) string   { return fmt.Sprintf("nqn.v%d", i) }
func idOf(i int) string    { return fmt.Sprintf("v%d", i) }
func tableOf(i int) string { return fmt.Sprintf("holdfast-v%d", i) }

func uuidOf(i int) uuid.UUID {
	var u uuid.UUID
	binary.BigEndian.PutUint64(u[:], uint64(i)+1)
	return u
}

// stage adds volume i, serving.
func (w *world) stage(i int) {
	nqn := nqnOf(i)
	w.exported[nqn] = nvmesysfs.Namespace{Disk: fmt.Sprintf("nvme%dn1", i), NQN: nqn, NSID: 1, UUID: uuidOf(i), SizeBytes: size, BlockSize: 512}
	v := Volume{
		ID: idOf(i), Table: tableOf(i), Eager: true, Identity: initiator.Identity{NQN: nqn, NSID: 1, UUID: uuidOf(i), SizeBytes: size},
		Session: initiator.Session{NQN: nqn, Portals: []netip.AddrPort{portal(1)}, Config: nvme.ConnectionConfig{CtrlLossTmo: -1, ReconnectDelay: 5}},
	}
	w.volumes = append(w.volumes, v)
	w.connect(v.Session)
	d := w.disks[nqn]
	w.tables[v.Table] = &fakeTable{events: 1, State: servingOn(d)}
}

func servingOn(d nvmesysfs.Namespace) guard.State {
	return guard.State{OpenCount: 1, SizeBytes: d.SizeBytes, Path: devOf(d), Active: true, Queues: true, HasTable: true}
}

func devOf(d nvmesysfs.Namespace) string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// connect makes the controllers of s that are missing, and its disk.
func (w *world) connect(s initiator.Session) {
	for _, p := range s.Portals {
		if !slices.ContainsFunc(w.controllers, func(c nvmesysfs.Controller) bool {
			at, _ := c.Portal()
			return c.NQN == s.NQN && at == p && !c.Ending()
		}) {
			w.minors++
			w.controllers = append(w.controllers, nvmesysfs.Controller{
				Name: fmt.Sprintf("nvme%d", w.minors), NQN: s.NQN, State: "live", Traddr: p.Addr().String(), Trsvcid: fmt.Sprint(p.Port()),
				CtrlLossTmo: -1, ReconnectDelay: eagerDelay,
			})
		}
	}
	w.scan(s.NQN)
}

// scan shows what the storage host has, as the kernel does after a connect.
func (w *world) scan(nqn string) {
	d := w.exported[nqn]
	if d.Disk == "" || w.hidden[nqn] {
		delete(w.disks, nqn)
		return
	}
	var names []string
	for _, c := range w.controllers {
		if c.NQN == nqn {
			names = append(names, c.Name)
		}
	}
	old, had := w.disks[nqn]
	d.Major, d.Minor, d.Controllers = old.Major, old.Minor, names
	if !had {
		w.minors++
		d.Major, d.Minor = 259, w.minors
	}
	w.disks[nqn] = d
}

// do changes the world from a test.
func (w *world) do(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// setState is what the kernel makes of volume i's controllers; its disk stays.
func (w *world) setState(i int, state string) {
	for j := range w.controllers {
		if w.controllers[j].NQN == nqnOf(i) {
			w.controllers[j].State = state
		}
	}
}

// giveUp is the kernel's removal of volume i's controllers and of its disk.
func (w *world) giveUp(i int) {
	w.controllers = slices.DeleteFunc(w.controllers, func(c nvmesysfs.Controller) bool { return c.NQN == nqnOf(i) })
	delete(w.disks, nqnOf(i))
}

// pathFails is I/O that came back with an error.
func (w *world) pathFails(table string) {
	w.tables[table].Active = false
	w.tables[table].events++
}

// takeAbout says what hints were about: anything, if nothing was said.
func (w *world) takeAbout() (names map[string]bool, all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	names, w.about = w.about, nil
	return names, len(names) == 0
}

func (w *world) hint() {
	select {
	case w.hints <- struct{}{}:
	default:
	}
}

// errInVain makes an act do nothing and say that all is well.
var errInVain = errors.New("in vain")

func ofAct(err error) error {
	if errors.Is(err, errInVain) {
		return nil
	}
	return err
}

// tooMany calls are those of a loop that spins: the clock of a bubble would
// stand still in it for ever.
const tooMany = 100_000

// called counts a call, hangs if it shall, and returns the error it shall have.
func (w *world) called(what, of string) error {
	name := what + " " + of
	w.mu.Lock()
	if w.calls[name]++; w.calls[name] > tooMany {
		panic("the watch spins: " + name)
	}
	block, err := w.block[name], w.fail[name]
	w.mu.Unlock()
	if block != nil {
		<-block
	}
	return err
}

// count sums the calls whose names begin with prefix.
func (w *world) count(prefix string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for name, calls := range w.calls {
		if strings.HasPrefix(name, prefix) {
			n += calls
		}
	}
	return n
}

// Sysfs.

func (w *world) Controllers() ([]nvmesysfs.Controller, error) {
	err := w.called("controllers", "")
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.controllers), err
}

func (w *world) SessionSince(nqn string, _ []string, keep func(string) (nvmesysfs.Namespace, bool)) (nvmesysfs.Snapshot, error) {
	if err := w.called("session", nqn); err != nil {
		return nvmesysfs.Snapshot{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var s nvmesysfs.Snapshot
	if d, ok := w.disks[nqn]; ok {
		if kept, ok := keep(d.Disk); ok {
			kept.Controllers = d.Controllers // which is looked at always
			d = kept
		}
		s.Namespaces = append(s.Namespaces, d)
	}
	return s, nil
}

func (w *world) WriteControl(controller, attr, value string) error {
	if err := w.called("write "+controller+" "+attr, value); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.controllers {
		c := &w.controllers[i]
		to := map[string]*int{nvmesysfs.ReconnectDelay: &c.ReconnectDelay, nvmesysfs.CtrlLossTmo: &c.CtrlLossTmo}[attr]
		if c.Name == controller && to != nil {
			_, _ = fmt.Sscan(value, to)
		}
	}
	return nil
}

// Guards.

func (w *world) List() (map[string]uint32, error) {
	err := w.called("list", "")
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]uint32{}
	for name, t := range w.tables {
		out[name] = t.events
	}
	return out, err
}

func (w *world) State(name string) (guard.State, error) {
	if err := w.called("state", name); err != nil {
		return guard.State{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tables[name] == nil {
		return guard.State{}, dm.ErrNotFound
	}
	return w.tables[name].State, nil
}

func (w *world) Feed(name string, p guard.Path, _ bool, proof guard.Proof) error {
	right := proof()
	if right != nil {
		w.do(func() { w.wrong = append(w.wrong, fmt.Sprintf("%s fed %s: %v", name, p.Disk, right)) })
	}
	return w.change(name, errors.Join(w.called("feed", name), right), func(t *fakeTable) {
		t.State, t.events = servingOn(nvmesysfs.Namespace{Major: p.Major, Minor: p.Minor, SizeBytes: p.SizeBytes}), t.events+1
	})
}

// change changes a table unless the call for it has failed.
func (w *world) change(name string, err error, change func(*fakeTable)) error {
	if err != nil {
		return ofAct(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.tables[name]
	if t == nil {
		return dm.ErrNotFound
	}
	change(t)
	return nil
}

func (w *world) Hold(name string) error {
	return w.change(name, w.called("hold", name), func(t *fakeTable) {
		if !t.Suspended {
			t.Active, t.Holds, t.Queues, t.events = false, true, true, t.events+1
		}
	})
}

func (w *world) Remove(_ context.Context, name string) error {
	if err := w.called("remove", name); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.tables, name)
	return nil
}

// Keeper.

func (w *world) Volumes() []Volume {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.steady {
		return w.volumes
	}
	return slices.Clone(w.volumes)
}

func (w *world) Changed() <-chan struct{} { return w.changed }

func (w *world) Restore(_ context.Context, s initiator.Session) error {
	if err := w.called("restore", s.NQN); err != nil {
		return ofAct(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.network {
		return errFake
	}
	w.connect(s)
	return nil
}

func (w *world) Retire(_ context.Context, nqn string) error {
	if err := w.called("retire", nqn); err != nil {
		return ofAct(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := initiator.Session{NQN: nqn}
	for _, v := range w.volumes {
		if v.Session.NQN == nqn {
			s.Portals = initiator.JoinPortals(s.Portals, v.Session.Portals)
		}
	}
	gone := initiator.Excess(w.controllers, s)
	w.controllers = slices.DeleteFunc(w.controllers, func(c nvmesysfs.Controller) bool { return slices.Contains(gone, c) })
	w.scan(nqn)
	return nil
}

func (w *world) Drop(_ context.Context, nqn string) error {
	if err := w.called("drop", nqn); err != nil {
		return ofAct(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.controllers = slices.DeleteFunc(w.controllers, func(c nvmesysfs.Controller) bool { return c.NQN == nqn && !c.Live() })
	w.scan(nqn)
	if !slices.ContainsFunc(w.controllers, func(c nvmesysfs.Controller) bool { return c.NQN == nqn }) {
		delete(w.disks, nqn)
	}
	return nil
}

// Owners implements Cluster.
func (w *world) Owners(_ context.Context, ids []string) (map[string]Owner, error) {
	said := map[string]Owner{}
	for _, id := range ids {
		if err := w.called("owner", id); err != nil {
			return said, err
		}
		w.do(func() { said[id] = w.owner[id] })
	}
	return said, nil
}

func (w *world) Rescan(nqn string) error {
	if err := w.called("rescan", nqn); err != nil {
		return ofAct(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.hidden, nqn)
	w.scan(nqn)
	return nil
}

func (w *world) Proof(id string, p guard.Path) guard.Proof {
	return func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, d := range w.disks {
			for _, v := range w.volumes {
				if d.Major == p.Major && d.Minor == p.Minor && v.ID == id {
					return v.Identity.Check(d)
				}
			}
		}
		return errFake
	}
}

func (w *world) IsWithdrawn(_ context.Context, id string) (bool, error) {
	err := w.called("ask", id)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.withdrawn[id], err
}

func (w *world) End(_ context.Context, v Volume, why Reason) error {
	if err := w.called("end "+string(why), v.ID); err != nil {
		return ofAct(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.volumes {
		if w.volumes[i].ID == v.ID && w.volumes[i].Generation == v.Generation && (why != Again || w.volumes[i].Ended) {
			w.volumes[i].Ended = true
			if t := w.tables[w.volumes[i].Table]; t != nil {
				t.Queues, t.Active, t.Holds, t.events = false, false, false, t.events+1
			}
		}
	}
	return nil
}

func (w *world) own() { _ = w.called("own", "") }

func (w *world) KeepClocks(all map[string]Clock) error {
	if err := w.called("keep clocks", ""); err != nil {
		return ofAct(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept = all
	return nil
}

// text is what a logger has written.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (x *text) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(p)
}

func (x *text) lines() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.DeleteFunc(strings.Split(x.b.String(), "\n"), func(s string) bool { return s == "" })
}

// watch is one of w that says at info and above what it says to the text, as
// "LEVEL message" with the volume or session.
func (w *world) watch() (*Watch, *text) {
	said := &text{}
	log := slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	var cluster Cluster
	if w.owner != nil {
		cluster = w
	}
	return New(Options{Keeper: w, Cluster: cluster, Sysfs: w, Guards: w, Own: w.own, Patience: kernelTime{w}, Hints: w.hints, About: w.takeAbout, Resized: w.resized, Clocks: w.kept, Dev: "/dev", Log: log}), said
}

// kernelTime is the kernel's time for admin commands.
type kernelTime struct{ w *world }

// Hold implements initiator.Patience.
func (k kernelTime) Hold() func() {
	_ = k.w.called("hurry", "")
	return func() { _ = k.w.called("relax", "") }
}

// run is a world with a watch running in it.
type run struct {
	*testing.T
	*world
	watch *Watch
	said  *text
}

// inBubble runs test in a world of n volumes whose watch has had its first look.
// Time passes only when everything waits.
func inBubble(t *testing.T, n int, test func(r run)) {
	t.Helper()
	inBubbleOf(t, newWorld(n), test)
}

func inBubbleOf(t *testing.T, w *world, test func(r run)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// Channels belong to the bubble that made them.
		w.hints, w.changed, w.resized = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
		r := run{T: t, world: w}
		r.watch, r.said = w.watch()
		stop := r.start()
		test(r)
		stop()
	})
}

// start returns when the watch has had its first look.
func (r run) start() (stop func()) {
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan struct{})
	go func() {
		r.watch.Run(ctx)
		close(done)
	}()
	synctest.Wait()
	return func() {
		cancel()
		<-done
	}
}

// pass lets time pass, and then everything come to rest.
func (r run) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// expect says what the watch must report of volume i.
func (r run) expect(i int, state State) Report {
	r.Helper()
	got, ok := r.watch.Report(idOf(i))
	if !ok || got.State != state {
		r.Errorf("volume %d is %q (known: %v), want %q", i, got.State, ok, state)
	}
	return got
}

func (r run) expectCalls(prefix string, want int) {
	r.Helper()
	if got := r.count(prefix); got != want {
		r.Errorf("%d calls of %q, want %d", got, prefix, want)
	}
}
