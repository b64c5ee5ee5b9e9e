package node_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/node/nodetest"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const (
	size = 64 << 20
	// patience is how long a call may take, in the time of the bubble.
	patience = time.Minute
)

// world is a storage host, a machine that reaches it, and the plugin on it.
type world struct {
	*testing.T
	host    *nodetest.Host
	machine *nodetest.Machine
	guard   node.Guard
	root    string
	boot    string
	proc    *nodetest.Process
	node    *node.Node
}

// inWorld runs test in a bubble of its own: time passes only when everything
// waits. The volumes have the kernel's guard.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	guarded(t, node.GuardKernel, test)
}

// inWorlds runs test once with each guard.
func inWorlds(t *testing.T, test func(w *world)) {
	t.Helper()
	for _, g := range []node.Guard{node.GuardKernel, node.GuardDM} {
		t.Run(string(g), func(t *testing.T) {
			t.Parallel()
			guarded(t, g, test)
		})
	}
}

// guarded is inWorld with the guard g.
func guarded(t *testing.T, g node.Guard, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newWorld(t, g)) })
}

func newWorld(t *testing.T, g node.Guard) *world {
	t.Helper()
	w := &world{T: t, host: nodetest.NewHost(), guard: g, root: memoryDir(t), boot: "first boot"}
	w.host.SetGuard(g)
	w.machine = nodetest.New(t, w.host)
	w.restart()
	return w
}

// memoryDir is a directory in memory where the machine has one: a record is
// flushed at every step, and these tests make many thousands of steps.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "holdfast-node-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// restart starts the plugin anew on the records that are there.
func (w *world) restart() {
	w.Helper()
	w.proc = w.machine.Start(w.host.Authorities)
	n, err := node.New(node.Options{
		RunDir: w.runDir(), BootID: w.boot, Fabric: w.proc, Sysfs: w.proc, Mounter: w.proc, Disk: w.proc, Flusher: w.proc,
		Guards: w.proc, Authorities: w.proc.Authorities, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.Fatal(err)
	}
	w.node = n
}

func (w *world) runDir() string { return filepath.Join(w.root, "run") }

// reboot restarts the machine with the plugin.
func (w *world) reboot() {
	w.machine.Reboot()
	w.boot = "boot after " + w.boot
	w.restart()
}

func (w *world) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(w.Context(), d)
	w.Cleanup(cancel)
	return ctx
}

func (w *world) ctx() context.Context { return w.within(patience) }

func (w *world) staging(volumeID string) string {
	return filepath.Join(w.root, "stage", strings.ReplaceAll(volumeID, ":", "_"))
}

func (w *world) target(pod string) string { return filepath.Join(w.root, "pods", pod, "mount") }

// stageRequest publishes the volume at the host and asks for it.
func (w *world) stageRequest(id uuid.UUID, fsType string) node.StageRequest {
	handle := volume.ID{Host: nodetest.HostName, UUID: id}.String()
	return node.StageRequest{VolumeID: handle, StagingPath: w.staging(handle), FSType: fsType, Attachment: w.host.Publish(id)}
}

func (w *world) publishRequest(r node.StageRequest, pod string) node.PublishRequest {
	return node.PublishRequest{StageRequest: r, TargetPath: w.target(pod)}
}

func (w *world) stage(r node.StageRequest) {
	w.Helper()
	w.must(w.node.Stage(w.ctx(), r))
}

func (w *world) publish(r node.PublishRequest) {
	w.Helper()
	w.must(w.node.Publish(w.ctx(), r))
}

func (w *world) unpublish(r node.PublishRequest) {
	w.Helper()
	w.must(w.node.Unpublish(w.ctx(), r.VolumeID, r.TargetPath))
}

func (w *world) unstage(r node.StageRequest) {
	w.Helper()
	w.must(w.node.Unstage(w.ctx(), r.VolumeID, r.StagingPath))
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// wantErr ends the test unless err wraps want and says each of the texts.
func (w *world) wantErr(err, want error, texts ...string) {
	w.Helper()
	if !errors.Is(err, want) {
		w.Fatalf("error %v, want one that wraps %q", err, want)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			w.Errorf("error %q does not say %q", err, text)
		}
	}
}

func (w *world) write(path, text string) {
	w.Helper()
	w.must(w.machine.Write(path, text))
}

// view is everything that a call may have changed, without what is random.
type view struct {
	Records  []string // "PHASE with N targets", sorted
	Mounts   []string // relative to the root of the world
	Sessions int
	Supers   []string
	Tables   []string
	Lost     string
}

// In a view that is wanted DISK is the disk of the first volume that is staged:
// that of its table if it has one.
func (w *world) named(text string) string {
	disk := "nvme0n1"
	if w.guard == node.GuardDM {
		disk = "dm-0"
	}
	return strings.ReplaceAll(text, "DISK", disk)
}

func (w *world) allNamed(texts []string) []string {
	var out []string
	for _, t := range texts {
		out = append(out, w.named(t))
	}
	return out
}

// tables are those of one volume for which all is well.
func (w *world) tables() []string {
	if w.guard != node.GuardDM {
		return nil
	}
	return []string{"dm-0 over nvme0n1"}
}

// staged is the view of one ext4 volume that is staged and not published.
func (w *world) staged() view {
	return view{
		Records: []string{"staged DISK "}, Mounts: []string{"STAGING ext4 DISK rw"}, Sessions: 1, Supers: []string{"DISK"}, Tables: w.tables(),
	}
}

func (w *world) look() view {
	w.Helper()
	v := view{Sessions: len(w.machine.Sessions()), Supers: w.machine.Supers(), Tables: w.machine.Tables(), Lost: w.machine.Lost()}
	for _, r := range w.node.Records() {
		paths := make([]string, 0, len(r.Targets))
		for p := range r.Targets {
			paths = append(paths, w.short(p))
		}
		slices.Sort(paths)
		v.Records = append(v.Records, string(r.Phase)+" "+r.Disk+" "+strings.Join(paths, ","))
	}
	slices.Sort(v.Records)
	for _, m := range w.machine.Mounted() {
		v.Mounts = append(v.Mounts, w.short(m))
	}
	return v
}

var stagingPath = regexp.MustCompile(`stage/[^ ]*`)

// short replaces staging paths, which are random, and the root.
func (w *world) short(text string) string {
	return stagingPath.ReplaceAllString(strings.ReplaceAll(text, w.root+"/", ""), "STAGING")
}

func (w *world) wantView(want view) {
	w.Helper()
	want.Records, want.Mounts, want.Supers = w.allNamed(want.Records), w.allNamed(want.Mounts), w.allNamed(want.Supers)
	if diff := cmp.Diff(want, w.look()); diff != "" {
		w.Errorf("-want +got:\n%s", diff)
	}
}

// wantSteps compares what the process did since Strike.
func (w *world) wantSteps(want ...string) {
	w.Helper()
	if diff := cmp.Diff(want, w.proc.Steps()); diff != "" {
		w.Errorf("steps (-want +got):\n%s", diff)
	}
}

// wantChanges compares what the process changed since Strike. What is done to
// tables is done with guard dm only.
func (w *world) wantChanges(want ...string) {
	w.Helper()
	if w.guard != node.GuardDM {
		want = slices.DeleteFunc(slices.Clone(want), func(s string) bool { return s == "Ensure" || s == "GiveUp" || s == "Remove" })
	}
	if diff := cmp.Diff(want, changes(w.proc.Steps()), cmpopts.EquateEmpty()); diff != "" {
		w.Errorf("changes (-want +got):\n%s", diff)
	}
}

// feed plays the watch once an outage is over: every volume that still waits
// gets its disk back below its table.
func (w *world) feed() {
	w.Helper()
	for _, r := range w.node.Records() {
		if r.Table != "" && r.Ended == node.NotEnded {
			w.must(w.feedOne(r))
		}
	}
}

func (w *world) feedOne(r node.Record) error {
	return w.machine.Feed(r.Table, r.Identity(), func(p guard.Path) guard.Proof { return w.node.Proof(r.Stage.VolumeID, p) })
}

// outage is a way in which the path to a volume goes and comes back.
type outage struct {
	guard      node.Guard
	begin, end func(*world, node.StageRequest)
}

var outages = map[string]outage{
	"kernel": {
		node.GuardKernel,
		func(w *world, r node.StageRequest) { w.machine.Cut(r.Attachment.Session.NQN) },
		func(w *world, r node.StageRequest) { w.machine.Heal(r.Attachment.Session.NQN) },
	},
	"dm": {
		node.GuardDM,
		func(w *world, r node.StageRequest) { w.machine.Cut(r.Attachment.Session.NQN) },
		func(w *world, r node.StageRequest) { w.machine.Heal(r.Attachment.Session.NQN) },
	},
	"dm, noticed by the watch": {
		node.GuardDM,
		func(w *world, r node.StageRequest) {
			w.machine.Cut(r.Attachment.Session.NQN)
			w.machine.HoldBack(r.Attachment.Session.NQN)
		},
		func(w *world, r node.StageRequest) {
			w.machine.Heal(r.Attachment.Session.NQN)
			w.feed()
		},
	},
	"dm, the kernel deletes the device": {
		node.GuardDM,
		func(w *world, r node.StageRequest) { w.machine.Vanish(r.Attachment.Session.NQN) },
		func(w *world, r node.StageRequest) {
			w.must(w.node.Restore(w.ctx(), r.Attachment.Session))
			w.feed()
		},
	},
}

// nothing is the view of a node that has no volume and never lost anything.
var nothing = view{}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// changes are the steps that change something outside of the process.
func changes(steps []string) []string {
	return slices.DeleteFunc(slices.Clone(steps), func(s string) bool {
		return slices.Contains([]string{"Session", "Mounts", "Probe", "AllZero", "SuperblockGone", "Errors", "Stat", "Status", "TableState"}, s)
	})
}
