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
	"github.com/google/uuid"

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
	root    string
	boot    string
	proc    *nodetest.Process
	node    *node.Node
}

// inWorld runs test in a bubble of its own: time passes only when everything
// waits.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newWorld(t)) })
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, host: nodetest.NewHost(), root: memoryDir(t), boot: "first boot"}
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
		StateDir: w.stateDir(), BootID: w.boot, Fabric: w.proc, Sysfs: w.proc, Mounter: w.proc, Disk: w.proc, Flusher: w.proc,
		Authorities: w.proc.Authorities, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.Fatal(err)
	}
	w.node = n
}

func (w *world) stateDir() string { return filepath.Join(w.root, "state") }

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
	Lost     string
}

func (w *world) look() view {
	w.Helper()
	v := view{Sessions: len(w.machine.Sessions()), Supers: w.machine.Supers(), Lost: w.machine.Lost()}
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
	if diff := cmp.Diff(want, w.look()); diff != "" {
		w.Errorf("-want +got:\n%s", diff)
	}
}

// stepOf is which step of a stage of a blank volume is the named one, counted
// from 1.
func (w *world) stepOf(name, fsType string) int {
	w.Helper()
	other := newWorld(w.T)
	other.stage(other.stageRequest(other.host.Create(size), fsType))
	at := slices.Index(other.proc.Steps(), name)
	if at < 0 {
		w.Fatalf("no step %s in %v", name, other.proc.Steps())
	}
	return at + 1
}

// wantSteps compares what the process did since Strike.
func (w *world) wantSteps(want ...string) {
	w.Helper()
	if diff := cmp.Diff(want, w.proc.Steps()); diff != "" {
		w.Errorf("steps (-want +got):\n%s", diff)
	}
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
		return slices.Contains([]string{"Session", "Mounts", "Probe", "AllZero", "SuperblockGone", "Stat", "Status"}, s)
	})
}
