//go:build vm

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// kills is how many processes are killed in one run of the test: fewer where
// only the kernel is another one.
func kills() int {
	if os.Getenv("HOLDFAST_KERNEL_TESTS_ONLY") != "" {
		return 30
	}
	return 100
}

// TestKilledAtAnyMoment kills controller, node plugin and agent at random
// moments of a volume's life and repeats the calls, as Kubernetes would. Every
// call succeeds in the end, what was synced is there, and nothing is left over.
// HOLDFAST_SEED repeats a run.
func TestKilledAtAnyMoment(t *testing.T) {
	b := newBench(t, 12*time.Minute)
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		b.must(err)
		seed = n
	}
	t.Logf("seed %d", seed)
	k := &killer{bench: b, random: rand.New(rand.NewPCG(seed, 0)), count: map[string]int{}}
	for lives := 0; k.total() < kills(); lives++ {
		k.life(lives)
	}
	t.Logf("killed %v, %d calls were repeated", k.count, k.repeated)
}

type killer struct {
	*bench
	random   *rand.Rand
	count    map[string]int
	repeated int
}

func (k *killer) total() int {
	n := 0
	for _, c := range k.count {
		n += c
	}
	return n
}

// life is that of one volume; somebody is killed in each step.
func (k *killer) life(n int) {
	fsType := "ext4"
	if n%4 == 3 {
		fsType = ""
	}
	v := k.volume(fsType, 16)
	content := fmt.Sprintf("life-%d", n)
	k.step("create", func(ctx context.Context) error { return k.c.Provision(ctx, v) })
	for round := range 2 {
		k.step("attach", func(ctx context.Context) error { return k.c.Attach(ctx, v, k.node) })
		k.step("stage", func(ctx context.Context) error { return k.node.StageVolume(ctx, v) })
		k.step("publish", func(ctx context.Context) error { return k.node.PublishVolume(ctx, v, false) })
		if round == 0 {
			k.put(v, content)
		} else {
			k.check(v, content)
		}
		k.step("unpublish", func(ctx context.Context) error { return k.node.UnpublishVolume(ctx, v) })
		k.step("unstage", func(ctx context.Context) error { return k.node.UnstageVolume(ctx, v) })
		k.step("detach", func(ctx context.Context) error { return k.c.Detach(ctx, v, k.node) })
	}
	k.step("delete", func(ctx context.Context) error { return k.c.Delete(ctx, v) })
}

func (k *killer) put(v *cluster.Volume, content string) {
	if v.FSType == "" {
		k.sh("echo %s | dd of=%s bs=4096 conv=sync oflag=direct status=none", content, v.File())
		return
	}
	k.sh("echo %s > %s && sync -f %s", content, v.File(), v.File())
}

func (k *killer) check(v *cluster.Volume, content string) {
	if got := k.sh("head -n 1 %s", v.File()); got != content {
		k.Fatalf("%s holds %q, %q was synced", v.Name, got, content)
	}
}

// step makes a call, kills one of the three a moment later, starts it again,
// and repeats the call until it succeeds.
func (k *killer) step(what string, call func(context.Context) error) {
	victims := []struct {
		name  string
		kill  func() error
		start func() error
	}{
		{"controller", k.c.KillController, func() error { return k.c.StartController(k.ctx) }},
		{"node", func() error { return k.node.KillPlugin(k.ctx) }, func() error { return k.node.StartPlugin(k.ctx) }},
		{"agent", func() error { return k.storage.KillAgent(k.ctx) }, func() error { return k.storage.StartAgent(k.ctx) }},
	}
	victim := victims[k.random.IntN(len(victims))]
	first := make(chan error, 1)
	ctx, cancel := context.WithTimeout(k.ctx, 20*time.Second)
	defer cancel()
	go func() { first <- call(ctx) }()
	time.Sleep(time.Duration(k.random.IntN(500)) * time.Millisecond)
	k.must(victim.kill())
	k.count[victim.name]++
	k.must(victim.start())
	err := <-first
	if err == nil && k.random.IntN(2) == 0 {
		return
	}
	// After a success too, half of the time: its answer may have been lost.
	k.repeated++
	k.within(90*time.Second, what+" again after killing the "+victim.name, call)
}
