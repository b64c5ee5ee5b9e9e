//go:build vm

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// TestTwentyVolumesOneSession: publications of one node, pool and profile share
// a connection, so the twentieth volume makes none and the last one ends it.
func TestTwentyVolumesOneSession(t *testing.T) {
	b := newBench(t, 4*time.Minute)
	const many, atOnce = 20, 10
	var vs []*cluster.Volume
	for range many {
		vs = append(vs, b.volume("", 4))
	}
	b.use(vs[0])
	before := b.sessions()
	if n := b.controllers(); n != 1 {
		t.Fatalf("%d controllers after the first volume, want 1", n)
	}
	b.use(vs[1 : many-atOnce]...)
	var wg sync.WaitGroup
	errs := make([]error, many)
	for i, v := range vs[many-atOnce:] {
		wg.Go(func() { errs[i] = b.c.Use(b.ctx, v, b.node) })
	}
	wg.Wait()
	for _, err := range errs {
		b.must(err)
	}
	if after := b.sessions(); after != before {
		t.Errorf("volumes 2 to %d changed the connections:\nbefore\n%safter\n%s", many, before, after)
	}
	for i, v := range vs {
		b.sh("echo volume-%d | dd of=%s bs=4096 conv=sync oflag=direct status=none", i, v.Target())
	}
	for i, v := range vs {
		if got := b.on("head -c 20 %s | tr -d '\\0'", v.Image()); !strings.HasPrefix(got, fmt.Sprintf("volume-%d", i)) {
			t.Errorf("%s holds %q, want what was written to volume %d", v.Image(), got, i)
		}
	}
	b.drop(vs[:many-1]...)
	if after := b.sessions(); after != before {
		t.Errorf("taking %d of %d volumes away changed the connections:\n%s", many-1, many, after)
	}
	b.drop(vs[many-1])
	b.awaitNodeAlone(10 * time.Second)
}

// TestPublishAgainAHundredTimes publishes one volume to one node a hundred
// times; every tenth time it is used. Generations grow by one, and an NSID
// never comes twice under one NQN.
func TestPublishAgainAHundredTimes(t *testing.T) {
	anyKernel(t)
	b := newBench(t, 5*time.Minute)
	v, neighbour := b.volume("ext4", 16), b.volume("", 4)
	b.must(b.c.Provision(b.ctx, v))
	b.use(neighbour) // keeps the session, and with it the NQN, for the first half
	seen := map[string]bool{}
	for i := 1; i <= 100; i++ {
		b.must(b.c.Attach(b.ctx, v, b.node))
		if got := v.Publish["generation"]; got != fmt.Sprint(i) {
			t.Fatalf("generation %s at publication %d", got, i)
		}
		place := v.Publish["nqn"] + " " + v.Publish["nsid"]
		if seen[place] {
			t.Fatalf("publication %d has a place that was used before: %s", i, place)
		}
		seen[place] = true
		if i%10 == 0 {
			b.must(b.node.StageVolume(b.ctx, v))
			b.must(b.node.PublishVolume(b.ctx, v, false))
			b.sh("echo %d >> %s && sync -f %s", i, v.File(), v.File())
			b.must(b.node.UnpublishVolume(b.ctx, v))
			b.must(b.node.UnstageVolume(b.ctx, v))
		}
		b.must(b.c.Detach(b.ctx, v, b.node))
		if i == 50 {
			b.drop(neighbour)
		}
	}
	b.attach(v)
	want := "10\n20\n30\n40\n50\n60\n70\n80\n90\n100"
	if got := b.sh("cat %s", v.File()); got != want {
		t.Errorf("the file holds %q, want %q", got, want)
	}
	b.drop(v)
}
