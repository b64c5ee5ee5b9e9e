package node_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/node"
)

// open opens a node on the records of w; the machine is not touched.
func open(w *world) error {
	_, err := node.New(node.Options{
		RunDir: w.runDir(), BootID: w.boot, Fabric: w.proc, Sysfs: w.proc, Mounter: w.proc, Disk: w.proc, Flusher: w.proc,
		Guards: w.proc, Authorities: w.proc.Authorities, Log: slog.New(slog.DiscardHandler),
	})
	return err
}

// TestRecordsDamaged: a record that cannot be read is a volume that may be
// mounted. The plugin does not start as if it were not.
func TestRecordsDamaged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(string) string
		says   string
	}{
		"empty":         {func(string) string { return "" }, "damaged"},
		"cut":           {func(s string) string { return s[:len(s)/2] }, "damaged"},
		"null":          {func(string) string { return "null" }, "version 0"},
		"of the future": {func(s string) string { return strings.Replace(s, `"Version": 1`, `"Version": 2`, 1) }, "version 2"},
		"other types":   {func(s string) string { return strings.Replace(s, `"Version": 1`, `"Version": "1"`, 1) }, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				w.stage(w.stageRequest(w.host.Create(size), "ext4"))
				files, err := filepath.Glob(filepath.Join(w.runDir(), "boot-*", "*.json"))
				if err != nil || len(files) != 1 {
					t.Fatalf("records: %v %v", files, err)
				}
				b, err := os.ReadFile(files[0])
				w.must(err)
				w.must(os.WriteFile(files[0], []byte(c.change(string(b))), 0o600))
				if err := open(w); err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("opened with %v, want an error that says %q", err, c.says)
				}
			})
		})
	}
}

// TestRecordSurvives: what is read back is what was asked for.
func TestRecordSurvives(t *testing.T) {
	t.Parallel()
	inWorlds(t, func(w *world) {
		r := w.stageRequest(w.host.Create(size), "ext4")
		r.MountOptions, r.Attachment.Eager = []string{"noatime"}, true
		p := w.publishRequest(r, "a")
		p.TargetReadOnly = true
		w.stage(r)
		w.publish(p)
		before := w.node.Records()
		w.restart()
		after := w.node.Records()
		if diff := cmp.Diff(before, after, cmp.Comparer(func(a, b node.Attachment) bool {
			return a.Session.NQN == b.Session.NQN && *a.Managed == *b.Managed && a.Eager == b.Eager
		})); diff != "" {
			w.Errorf("-before +after:\n%s", diff)
		}
		want := map[string]node.Target{p.TargetPath: {ReadOnly: true}}
		if diff := cmp.Diff(want, after[0].Targets); diff != "" || after[0].Stage.StagingPath != r.StagingPath {
			w.Errorf("-want +got:\n%s", diff)
		}
	})
}

// TestRecordsOfEarlierBoots are removed, and nothing else that lies beside them.
func TestRecordsOfEarlierBoots(t *testing.T) {
	t.Parallel()
	inWorld(t, func(w *world) {
		w.stage(w.stageRequest(w.host.Create(size), "ext4"))
		other := filepath.Join(w.runDir(), "somebody's")
		w.must(os.Mkdir(other, 0o700))
		for range 3 {
			w.reboot()
		}
		entries, err := os.ReadDir(w.runDir())
		w.must(err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if diff := cmp.Diff([]string{"boot-" + w.boot, "somebody's"}, names); diff != "" || len(w.node.Records()) > 0 {
			w.Errorf("records %v, -want +got:\n%s", w.node.Records(), diff)
		}
	})
}
