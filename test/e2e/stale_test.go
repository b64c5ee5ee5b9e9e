//go:build vm

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// fenceTime bounds how long a fence may take while the node is away: what the
// node was sending when it was cut off must end first.
const fenceTime = 30 * time.Second

// staleMark is in every write that must never arrive.
const staleMark = "WRITTEN-BY-A-GENERATION-THAT-HAS-ENDED"

// TestStaleWritesNeverLand cuts a node off with writes in every state: in
// flight, waiting in the block layer, waiting in the page cache. Its volumes are
// taken away and published again, to the same node, before it comes back. Not a
// byte of the old generation may arrive in any volume after the fence has
// answered, and what was synced before must be there.
func TestStaleWritesNeverLand(t *testing.T) {
	b := newBench(t, 4*time.Minute)
	s := &stale{bench: b,
		fs: b.volume("ext4", 24), block: b.volume("", 24), neighbour: b.volume("", 8),
		// Another keep-alive is another session, which the fence of its only
		// volume ends as a whole.
		alone: b.volume("ext4", 24, "keepAliveTmo", "6"), other: b.volume("", 8),
	}
	b.use(s.fs, s.block, s.neighbour, s.alone)
	b.must(b.c.Provision(b.ctx, s.other))
	s.prepare()
	w := b.write(s.neighbour)

	s.load()
	b.node.NIC(0).Drop()
	cut := time.Now()
	s.writeMore()
	// The first fence comes while neither side has noticed.
	s.fence(s.fs)
	b.Logf("first fence over %s after the cut", seconds(time.Since(cut)))
	b.awaitState(20*time.Second, s.neighbour, "connecting")
	b.awaitState(20*time.Second, s.alone, "connecting")
	b.Logf("the node's kernel noticed the cut after %s", seconds(time.Since(cut)))
	s.writeMore()
	s.fence(s.block)
	s.fence(s.alone)
	b.must(b.c.Attach(b.ctx, s.other, b.node))
	before := b.shas(append(s.fenced(), s.other)...)

	healed := time.Now()
	b.must(b.node.NIC(0).Heal())
	b.awaitState(20*time.Second, s.neighbour, "live")
	back := time.Now()
	b.Logf("session back %s after healing, first write of the neighbour %s", seconds(back.Sub(healed)), seconds(w.acked(20*time.Second, healed)))
	time.Sleep(time.Until(back.Add(10 * time.Second))) // whatever was queued has had its chance
	for v, got := range b.shas(append(s.fenced(), s.other)...) {
		if got != before[v] {
			b.Errorf("%s (%s) changed after its fence: %s, before %s", v.Name, kindOf(v), got, before[v])
		}
	}
	b.Logf("queued writes that the storage host was sent and refused: %s", b.on("dmesg | grep -c 'nvmet_tcp: failed cmd' || true"))
	b.Logf("%s after the session came back: %d volumes unchanged", seconds(time.Since(back)), len(before))
	s.stageAgain()
	w.stop()
	s.tearDown()
	w.verify()
	b.must(b.c.Delete(b.ctx, s.neighbour))
}

type stale struct {
	*bench
	fs, block, neighbour, alone, other *cluster.Volume

	round int
	kept  map[*cluster.Volume]string // what was synced, and must be read again
}

func (s *stale) fenced() []*cluster.Volume { return []*cluster.Volume{s.fs, s.block, s.alone} }

// prepare syncs what must survive, and makes room for later writes, so that
// these need nothing of the disk before they can be begun.
func (s *stale) prepare() {
	s.sh(`yes %s | dd of=/tmp/stale bs=1M count=2 iflag=fullblock status=none`, staleMark)
	s.kept = map[*cluster.Volume]string{}
	for _, v := range s.fenced() {
		if v.FSType == "" {
			s.sh("dd if=/dev/urandom of=%s bs=1M count=1 oflag=direct conv=fsync status=none", v.File())
		} else {
			s.sh("dd if=/dev/urandom of=%s/kept bs=1M count=1 status=none; fallocate -l 8M %[1]s/room; dd if=/dev/zero of=%[1]s/room bs=1M count=8 conv=notrunc status=none; sync -f %[1]s", v.Target())
		}
		s.kept[v] = s.read(v)
	}
}

func (s *stale) read(v *cluster.Volume) string {
	s.Helper()
	file := v.Target() + "/kept"
	if v.FSType == "" {
		file = v.File()
	}
	return strings.Fields(s.sh("dd if=%s bs=1M count=1 iflag=direct status=none | sha256sum", file))[0]
}

// load has large direct writes under way at the moment of the cut: the target
// has asked for their data and gets only a part.
func (s *stale) load() {
	for _, v := range s.fenced() {
		file, seek := v.Target()+"/room", 0
		if v.FSType == "" {
			file, seek = v.File(), 16
		}
		s.background(fmt.Sprintf("while :; do dd if=/dev/zero of=%s seek=%d bs=512k count=4 oflag=direct conv=notrunc status=none || break; done", file, seek))
	}
	time.Sleep(500 * time.Millisecond)
}

// writeMore writes what must never land: past the cache and waiting for it,
// through the cache and synced, and through the cache only.
func (s *stale) writeMore() {
	s.round++
	for _, v := range s.fenced() {
		dir, name := v.Target(), func(kind string) string { return fmt.Sprintf("%s/%s%d", v.Target(), kind, s.round) }
		if v.FSType != "" {
			s.background(fmt.Sprintf("dd if=/tmp/stale of=%s/room seek=%d bs=1M oflag=direct conv=notrunc status=none", dir, 2+s.round))
			s.background(fmt.Sprintf("dd if=/tmp/stale of=%s bs=1M conv=fsync status=none", name("synced")))
			s.background(fmt.Sprintf("dd if=/tmp/stale of=%s bs=1M status=none", name("cached")))
			continue
		}
		s.background(fmt.Sprintf("dd if=/tmp/stale of=%s seek=%d bs=1M oflag=direct conv=notrunc status=none", v.File(), 4*s.round))
		s.background(fmt.Sprintf("dd if=/tmp/stale of=%s seek=%d bs=1M conv=notrunc,fsync status=none", v.File(), 4*s.round+16))
		s.background(fmt.Sprintf("dd if=/tmp/stale of=%s seek=%d bs=1M conv=notrunc status=none", v.File(), 4*s.round+18))
	}
}

// background runs a script that may hang for as long as it likes; all of them
// together are the pods' programs.
func (s *stale) background(script string) {
	s.Helper()
	_, err := s.node.Start(s.ctx, "pod", "bash", "-c", "echo $$ >>/run/pods; "+script)
	s.must(err)
}

// fence takes a volume from the node that is away, and publishes it to it again.
func (s *stale) fence(v *cluster.Volume) {
	s.Helper()
	old, began := v.Publish, time.Now()
	s.must(s.c.Detach(s.ctx, v, s.node))
	took := time.Since(began)
	s.must(s.c.Attach(s.ctx, v, s.node))
	s.Logf("fence of %s (%s) while the node is away: %s; NSID %s, generation %s, then NSID %s, generation %s", v.Name, kindOf(v), seconds(took),
		old["nsid"], old["generation"], v.Publish["nsid"], v.Publish["generation"])
	if took > fenceTime {
		s.Errorf("fence of %s took %s, limit %s", v.Name, took, fenceTime)
	}
	if old["nqn"] == v.Publish["nqn"] && old["nsid"] == v.Publish["nsid"] {
		s.Errorf("%s has the same place in the same session again: %v", v.Name, v.Publish)
	}
}

// stageAgain is the kubelet with the new publications, over the dead stages.
func (s *stale) stageAgain() {
	s.sh("while read -r p; do kill -KILL -- -$p || true; done </run/pods 2>/dev/null; rm /run/pods")
	took := s.within(30*time.Second, "NodeStage over a dead ext4 stage", func(ctx context.Context) error { return s.node.StageVolume(ctx, s.fs) })
	s.Logf("NodeStage over a dead ext4 stage in a session that came back: %s", seconds(took))
	took = s.within(30*time.Second, "NodeStage over a dead ext4 stage", func(ctx context.Context) error { return s.node.StageVolume(ctx, s.alone) })
	s.Logf("NodeStage over a dead ext4 stage whose session has ended: %s", seconds(took))
	s.must(s.node.PublishVolume(s.ctx, s.fs, false))
	s.must(s.node.PublishVolume(s.ctx, s.alone, false))
	// The kubelet does not always call NodeStage again.
	took = s.within(30*time.Second, "NodePublish over a dead block stage", func(ctx context.Context) error { return s.node.PublishVolume(ctx, s.block, false) })
	s.Logf("NodePublish, without NodeStage, over a dead block stage: %s", seconds(took))
	s.must(s.node.StageVolume(s.ctx, s.other))
	s.must(s.node.PublishVolume(s.ctx, s.other, false))
	for v, want := range s.kept {
		if got := s.read(v); got != want {
			s.Errorf("%s (%s): what was synced before the cut reads differently", v.Name, kindOf(v))
		}
	}
}

// tearDown takes everything away and looks at what is on the storage host.
func (s *stale) tearDown() {
	for _, v := range append(s.fenced(), s.other, s.neighbour) {
		s.must(s.c.Drop(s.ctx, v, s.node))
	}
	for _, v := range append(s.fenced(), s.other) {
		if s.on("grep -c -a -F %s %s || true", staleMark, v.Image()) != "0" {
			s.Errorf("%s (%s) holds writes of the ended generation", v.Name, kindOf(v))
		}
		if v.FSType == "ext4" {
			s.on("e2fsck -fn %s", v.Image())
		}
		s.must(s.c.Delete(s.ctx, v))
	}
}
