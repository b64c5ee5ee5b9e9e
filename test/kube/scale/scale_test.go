//go:build linux && k8s && long

package scale_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/kube"
)

var (
	nodes   = flag.Int("nodes", 1000, "simulated nodes")
	volumes = flag.Int("volumes", 5000, "claims, each with a pod")
	hosts   = flag.Int("hosts", 10, "storage hosts")
	kills   = flag.Int("kills", 2, "how often the controller's pod is killed while volumes are made, and while they are deleted")
	keep    = flag.Bool("keep", false, "keep the logs, also of a run that has passed")
	limit   = flag.Duration("limit", 100*time.Minute, "how long the whole may take")
)

// trial is one run: a simulated cluster, storage hosts without a kernel, and the
// processes of one pod of Holdfast's controller.
type trial struct {
	*testing.T
	ctx     context.Context
	cluster *kube.Simulated
	boxes   []box
	pod     []kube.Program    // its containers
	nodeIDs map[string]string // by the node's name
	watch   *watch
	killed  []time.Time
}

// A thousand nodes, five thousand volumes: none fails, is made twice or is left, with
// the controller killed meanwhile, and what it takes is known.
func TestScale(t *testing.T) {
	s := start(t)
	s.addNodes()
	s.mark("idle")
	began := time.Now()
	s.makeVolumes()
	s.awaitAttached()
	made := time.Since(began)
	s.mark("all attached")
	s.wantAllThere()
	s.noWarnings()
	began = time.Now()
	s.deleteVolumes()
	deleted := time.Since(began)
	s.mark("all deleted")
	s.wantNothing()
	s.noFailedCalls()
	s.report(made, deleted)
	s.bounded()
}

func start(t *testing.T) *trial {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), *limit)
	t.Cleanup(cancel)
	s := &trial{T: t, ctx: ctx}
	dir, err := os.MkdirTemp(filepath.Join(cluster.Root(), "build"), "scale-")
	s.must(err)
	t.Cleanup(func() { s.tidy(dir) })
	s.cluster, err = kube.StartSimulated(ctx, dir, t.Logf)
	s.must(err)
	t.Cleanup(func() {
		if err := s.cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, pkg := range []string{"cmd/holdfast", "test/cmd/fakehost"} {
		s.must(s.cluster.BuildCommand(ctx, pkg))
	}
	s.setUpBoxes(*hosts)
	s.install()
	s.watch = s.newWatch()
	return s
}

// tidy keeps what a person would look at after a failure, and removes it otherwise.
func (s *trial) tidy(dir string) {
	if s.Failed() || *keep {
		s.Logf("logs are in %s", dir)
		return
	}
	s.must(os.RemoveAll(dir))
}

func (s *trial) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *trial) kubectl(args ...string) string {
	s.Helper()
	out, err := s.cluster.Kubectl(s.ctx, args...)
	s.must(err)
	return out
}

// pollTime is long, because each question costs a process and the API server a list,
// on the processors of what is measured.
const pollTime = 5 * time.Second

// await asks until the answer is yes, and says from time to time how far it is.
func (s *trial) await(what string, is func() (yes bool, how string)) {
	s.Helper()
	for said := time.Now(); ; time.Sleep(pollTime) {
		yes, how := is()
		if yes {
			return
		}
		if _, err := s.cluster.Processes(); err != nil {
			s.Fatal(err)
		}
		if s.ctx.Err() != nil {
			s.Fatalf("%s: not in time: %s", what, how)
		}
		if time.Since(said) > time.Minute {
			s.Logf("%s: %s", what, how)
			said = time.Now()
		}
	}
}

// killDriver ends all processes of the controller's pod at one moment and starts them
// again, as the kubelet would.
func (s *trial) killDriver() {
	s.Helper()
	var names []string
	for _, c := range s.pod {
		names = append(names, c.Name)
	}
	s.must(s.cluster.Kill(names...))
	s.killed = append(s.killed, time.Now())
	s.runPod()
	s.Logf("%v killed and started again", names)
}

// killPoints are the numbers of volumes at which the driver is killed.
func killPoints() (points []int) {
	for i := range *kills {
		points = append(points, *volumes*(i+1)/(*kills+1))
	}
	return points
}

// bound is what the controller may hold in memory. It keeps nothing, so that it is
// generous: with a thousand volumes 14 MiB were seen.
const bound = 100 << 10 // KiB

func (s *trial) bounded() {
	if peak := s.watch.peak("holdfast"); peak > bound {
		s.Errorf("the controller held %s in memory, at most %s are right", mib(peak), mib(bound))
	}
}

func mib(kib int64) string { return fmt.Sprintf("%.1f MiB", float64(kib)/1024) }
