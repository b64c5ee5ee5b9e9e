//go:build vm && long

package e2e

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

var away = flag.Duration("away", time.Minute, "how long the node plugin is away in TestPluginAway")

// swarm is static targets, each with a session of its own.
type swarm struct {
	targets []*foreign
	volumes []*cluster.Volume
}

const swarmPort = 4500

// swarm makes n targets on one port, each with one namespace in memory, and has
// their volumes staged, ten at once.
func (b *bench) swarm(n int) *swarm {
	b.Helper()
	s := &swarm{}
	first := b.target("swarm0", swarmPort)
	for i := range n {
		f := first
		if i > 0 {
			f = &foreign{b: b, nqn: fmt.Sprintf("nqn.2020-01.com.example:swarm%d", i), ports: []int{swarmPort}}
			b.on(`cd /sys/kernel/config/nvmet; mkdir subsystems/%[1]s; echo 1 >subsystems/%[1]s/attr_allow_any_host`, f.nqn)
			f.link(swarmPort)
		}
		b.on("truncate -s 8M /run/swarm%d", i)
		b.on(`cd /sys/kernel/config/nvmet/subsystems/%s/namespaces; mkdir 1; cd 1; echo $(losetup -f --show /run/swarm%d) >device_path; echo 22222222-2222-4333-8444-%012d >device_uuid; echo 1 >enable`, f.nqn, i, i)
		s.targets = append(s.targets, f)
		v := f.static("", 8, "nsid", "1")
		b.must(b.c.Attach(b.ctx, v, b.node))
		s.volumes = append(s.volumes, v)
	}
	b.atOnce(10, s.volumes, func(v *cluster.Volume) error {
		if err := b.node.StageVolume(b.ctx, v); err != nil {
			return err
		}
		return b.node.PublishVolume(b.ctx, v, false)
	})
	return s
}

func (b *bench) atOnce(n int, vs []*cluster.Volume, do func(*cluster.Volume) error) {
	b.Helper()
	limit, errs := make(chan struct{}, n), make([]error, len(vs))
	var wg sync.WaitGroup
	for i, v := range vs {
		limit <- struct{}{}
		wg.Go(func() { errs[i] = do(v); <-limit })
	}
	wg.Wait()
	for _, err := range errs {
		b.must(err)
	}
}

func (s *swarm) remove(b *bench) {
	b.Helper()
	b.atOnce(10, s.volumes, func(v *cluster.Volume) error {
		if err := b.node.UnpublishVolume(b.ctx, v); err != nil {
			return err
		}
		return b.node.UnstageVolume(b.ctx, v)
	})
	b.on(`cd /sys/kernel/config/nvmet; rm ports/%[1]d/subsystems/*; rmdir ports/%[1]d; for s in subsystems/nqn.2020-01.com.example:swarm*; do rmdir $s/namespaces/1 $s; done; losetup -D; rm /run/swarm*`, swarmPort)
}

// TestFiftySessions: fifty sessions are lost at once and come back at once; in
// the second outage the kernel has deleted all of them. A managed volume with a
// writer is among them.
func TestFiftySessions(t *testing.T) {
	b := newBench(t, 15*time.Minute)
	s := b.swarm(50)
	v := b.volume("ext4", 24)
	b.use(v)
	w := b.write(v)
	for _, c := range []struct {
		name string
		lose func()
	}{
		{"silent for 12 s", func() { b.storage.NIC(0).Drop() }},
		{"silent for 12 s, and disconnected", func() { b.storage.NIC(0).Drop(); b.sh("nvme disconnect-all") }},
	} {
		c.lose()
		time.Sleep(12 * time.Second)
		b.must(b.storage.NIC(0).Heal())
		healed := time.Now()
		took := w.acked(time.Minute, healed)
		b.within(2*time.Minute, "all volumes serve", func(ctx context.Context) error { return b.allServe(ctx, s.volumes) })
		b.Logf("%s: the writer went on %s after healing, all %d sessions were back %s after it", c.name, seconds(took), len(s.volumes)+1, seconds(time.Since(healed)))
	}
	b.endOf([]*writer{w}, v)
	s.remove(b)
}

// allServe asks each volume for a block, read past the cache.
func (b *bench) allServe(ctx context.Context, vs []*cluster.Volume) error {
	var script strings.Builder
	script.WriteString("rm -f /run/unserved\n")
	for _, v := range vs {
		fmt.Fprintf(&script, "dd if=%[1]s of=/dev/null bs=4096 count=1 iflag=direct status=none || echo %[1]s >>/run/unserved &\n", v.Target())
	}
	_, err := b.node.Shell(ctx, script.String()+"wait; ! cat /run/unserved >&2 2>/dev/null")
	return err
}

// TestBlackHoleBeside: a target that swallows everything costs the stage of a
// healthy one less than a second.
func TestBlackHoleBeside(t *testing.T) {
	b := newBench(t, 6*time.Minute)
	alone, beside := b.volume("", 8), b.volume("", 8)
	for _, v := range []*cluster.Volume{alone, beside} {
		b.must(b.c.Provision(b.ctx, v))
		b.must(b.c.Attach(b.ctx, v, b.node))
	}
	began := time.Now()
	b.must(b.node.StageVolume(b.ctx, alone))
	quiet := time.Since(began)
	b.must(b.node.UnstageVolume(b.ctx, alone))
	hole := b.target("hole", 4460)
	b.on("truncate -s 8M /run/hole")
	hole.namespace(1, b.on("losetup -f --show /run/hole"))
	lost, never := hole.static("", 8, "nsid", "1"), hole.static("", 8, "nsid", "1")
	b.must(b.c.Attach(b.ctx, lost, b.node))
	b.must(b.node.StageVolume(b.ctx, lost))
	b.on("nft 'table ip hole { chain i { type filter hook input priority 0; tcp dport 4460 drop; }; }'")
	b.sh("nvme disconnect -n %s", hole.nqn) // the watch wants it back, for ever
	never.ID, never.Name = never.ID+"-2", never.Name+"-2"
	ctx, cancel := context.WithCancel(b.ctx)
	staging := make(chan error, 1)
	go func() { staging <- b.node.StageVolume(ctx, never) }() // and so does a stage
	time.Sleep(3 * time.Second)
	began = time.Now()
	b.must(b.node.StageVolume(b.ctx, beside))
	took := time.Since(began)
	b.Logf("stage of a healthy volume: %s alone, %s beside a black hole", seconds(quiet), seconds(took))
	if took > quiet+time.Second {
		t.Errorf("the black hole costs the healthy stage %s", seconds(took-quiet))
	}
	cancel()
	<-staging
	b.on("nft delete table ip hole")
	b.must(b.node.UnstageVolume(b.ctx, beside))
	for _, v := range []*cluster.Volume{never, lost} {
		b.within(time.Minute, "unstage", func(ctx context.Context) error { return b.node.UnstageVolume(ctx, v) })
	}
	for _, v := range []*cluster.Volume{alone, beside} {
		b.must(b.c.Detach(b.ctx, v, b.node))
		b.must(b.c.Delete(b.ctx, v))
	}
	hole.remove()
	b.on("losetup -D; rm /run/hole")
}

// TestHealWithoutMemory: the node's memory is full, most of it with pages that can
// only be written to the volume that is away, and the kernel has deleted the
// device. The plugin connects and puts it back all the same.
func TestHealWithoutMemory(t *testing.T) {
	b := newBench(t, 10*time.Minute)
	v := b.volume("ext4", 1200)
	b.use(v)
	mib := func(n int) string { return fmt.Sprintf("for i in $(seq %d); do cat /run/mib; done", n) }
	// Both files exist before the outage and are written over in it, and the file
	// system has no work of its own: what it would read then waits for the volume,
	// and the memory would never be full.
	b.sh("head -c 1048576 /dev/urandom >/run/mib; mount -o remount,commit=300,noinit_itable %s", v.Target())
	b.sh("head -c %d /dev/zero >%[2]s; head -c %[3]d /dev/zero >%[2]s.more; sync -f %[2]s", 400<<20, v.File(), 100<<20)
	b.sh("echo 90 >/proc/sys/vm/dirty_ratio; echo 85 >/proc/sys/vm/dirty_background_ratio; echo 360000 >/proc/sys/vm/dirty_expire_centisecs")
	b.storage.NIC(0).Drop()
	b.sh("nvme disconnect -n %s", v.Publish["nqn"])
	b.sh("%s 1<>%s", mib(400), v.File())
	// The rest goes to files in memory, down to what the kernel keeps for itself: it
	// counts dirty pages as available, but these can go nowhere.
	// What fills it may be ended by the kernel first.
	b.sh(`mkdir /run/fill; mount -t tmpfs -o size=100%% fill /run/fill
(echo 1000 >/proc/self/oom_score_adj; i=0
while head -c 4194304 /dev/zero >/run/fill/$i; do i=$((i+1))
[ $(awk '/^MemAvailable/ { a = $2 } /^Dirty|^Writeback:/ { d += $2 } END { print a-d }' /proc/meminfo) -gt 40000 ] || break; done) || true`)
	b.Logf("before healing:\n%s", b.sh("grep -E '^(MemFree|MemAvailable|Dirty|Writeback):' /proc/meminfo"))
	// Writers that want more than there is.
	b.sh("(%s 1<>%s.more) >/dev/null 2>&1 & echo $! >/run/more", mib(100), v.File())
	time.Sleep(5 * time.Second)
	b.must(b.storage.NIC(0).Heal())
	healed := time.Now()
	took := b.within(time.Minute, "the volume is well", func(context.Context) error {
		if c := b.controllers(); c == 0 {
			return fmt.Errorf("no session")
		}
		return b.allLive(v, 1)
	})
	b.Logf("the session was live %s after healing", seconds(took))
	b.sh("sync -f %s", v.Target())
	b.Logf("everything was written %s after healing", seconds(time.Since(healed)))
	b.sh("umount /run/fill; rmdir /run/fill; while kill -0 $(</run/more) 2>/dev/null; do sleep 0.1; done; sync -f %s", v.Target())
	b.sh("echo 3 >/proc/sys/vm/drop_caches")
	for file, n := range map[string]int{v.File(): 400, v.File() + ".more": 100} {
		b.sh("cmp <(%s) %s", mib(n), file)
	}
	b.wantHealth(v, "")
	b.sh("rm /run/mib; echo 20 >/proc/sys/vm/dirty_ratio; echo 10 >/proc/sys/vm/dirty_background_ratio; echo 3000 >/proc/sys/vm/dirty_expire_centisecs")
	b.drop(v)
}

// TestPluginAway: the device is gone and the plugin is away for long. I/O waits,
// and goes on within a second of the plugin's return.
func TestPluginAway(t *testing.T) {
	b := newBench(t, *away+5*time.Minute)
	vs := []*cluster.Volume{b.volume("ext4", 24), b.volume("xfs", 320), b.volume("", 16)}
	b.use(vs...)
	var ws []*writer
	for _, v := range vs {
		ws = append(ws, b.write(v))
	}
	b.must(b.node.KillPlugin(b.ctx))
	b.sh("nvme disconnect -n %s", vs[0].Publish["nqn"])
	time.Sleep(*away)
	b.must(b.node.StartPlugin(b.ctx))
	back := time.Now()
	for _, w := range ws {
		took := w.acked(time.Minute, back)
		b.Logf("%s went on %s after the plugin answered again, away for %s", kindOf(w.v), seconds(took), *away)
		if took > time.Second+slack {
			b.Errorf("%s: later than a second", kindOf(w.v))
		}
	}
	b.endOf(ws, vs...)
}
