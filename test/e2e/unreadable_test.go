//go:build vm

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// faulty is a namespace of somebody else's target with a fault under it.
type faulty struct {
	name  string
	put   string // script that fills $DEV, a device of 24 MiB
	fault string // device-mapper table over $DEV while it is staged first; "" for none
	// zeroed lets the volume be formatted if it is all zero.
	zeroed    bool
	want      codes.Code // with the fault
	wantAfter codes.Code // without it
}

const (
	ext4With = "mkfs.ext4 -q -F -b 4096 $DEV; echo kept >/run/kept; debugfs -w -R 'write /run/kept kept' $DEV 2>/dev/null"
	// Sectors: the first MiB, and the rest of 24 MiB. dm-flakey up for 0 s and
	// down for ever fails reads and lets writes pass. Linux 6.1 cannot let them
	// pass, and fails both.
	readsFail = "0 2048 flakey $DEV 0 0 100000 1 error_reads\n2048 47104 linear $DEV 2048"
	allFails  = "0 2048 error\n2048 47104 linear $DEV 2048"
	midFails  = "0 24576 linear $DEV 0\n24576 8 error\n24584 24568 linear $DEV 24584"
)

// faults: formatting is allowed wherever the rules can allow it at all.
var faults = []faulty{
	{name: "ext4, reads of the first MiB fail, writes pass", put: ext4With, fault: readsFail, zeroed: true, want: codes.Unavailable, wantAfter: codes.OK},
	{name: "ext4, reads and writes of the first MiB fail", put: ext4With, fault: allFails, zeroed: true, want: codes.Unavailable, wantAfter: codes.OK},
	{name: "zeros, of which 4 KiB in the middle cannot be read", put: "true", fault: midFails, zeroed: true, want: codes.Unavailable, wantAfter: codes.OK},
	{name: "one byte in the middle", put: `printf '\x01' | dd of=$DEV bs=1 seek=$((12<<20)) conv=notrunc status=none`, zeroed: true, wantAfter: codes.FailedPrecondition},
	{name: "zeros, and no word that they may be formatted", put: "true", wantAfter: codes.FailedPrecondition},
}

// TestFormatUnreadable: a volume that cannot be read is not blank. The volumes
// are static, because there no storage host vouches for anything.
func TestFormatUnreadable(t *testing.T) {
	anyKernel(t)
	b := newBench(t, 3*time.Minute)
	f := b.target("faulty", 4421)
	var vs []*cluster.Volume
	for i, c := range faults {
		b.on("IMG=/data/faulty%[1]d; truncate -s 24M $IMG; DEV=$(losetup -f --show $IMG); %[2]s; sync\n%[3]s",
			i+1, c.put, dmTable("create", i+1, orText(c.fault, "0 49152 linear $DEV 0")))
		f.namespace(i+1, fmt.Sprintf("/dev/mapper/faulty%d", i+1))
		v := f.static("ext4", 24, "nsid", fmt.Sprint(i+1), "uuid", f.uuid(i+1))
		if c.zeroed {
			v.Context["formatIfZero"] = "true"
		}
		vs = append(vs, v)
	}
	before := b.on("sha256sum /data/faulty*")
	for i, c := range faults {
		b.must(b.c.Attach(b.ctx, vs[i], b.node))
		if c.fault != "" {
			b.run(c.name, func(b *bench) { b.stageFaulty(vs[i], c.want) })
		}
	}
	if after := b.on("echo 1 >/proc/sys/vm/drop_caches; sha256sum /data/faulty*"); after != before {
		b.Errorf("a volume has changed:\n%s\nbefore:\n%s", after, before)
	}
	for i, c := range faults {
		b.run(c.name+", without the fault", func(b *bench) { b.stageHealed(vs[i], i+1, c) })
	}
	b.nodeHoldsNothing()
	f.remove()
	b.on("for i in 1 2 3 4 5; do dmsetup remove faulty$i; done; losetup -D; rm /data/faulty*")
}

func dmTable(command string, i int, table string) string {
	load := func(table string) string {
		return fmt.Sprintf("dmsetup %s faulty%d <<END\n%s\nEND\n", command, i, table)
	}
	script := load(table)
	if plain := strings.Replace(table, "1 error_reads", "", 1); plain != table {
		script = "if ! " + load(table) + "then\n" + load(plain) + "fi\n"
	}
	return script + fmt.Sprintf("dmsetup mknodes faulty%d", i)
}

// stageFaulty: the answer is not final, because the fault may pass, so the
// kubelet will unstage; that must work as well.
func (b *bench) stageFaulty(v *cluster.Volume, want codes.Code) {
	for range 2 {
		began := time.Now()
		err := b.node.StageVolume(b.ctx, v)
		b.Logf("%s in %s: %v", code(err), seconds(time.Since(began)), err)
		b.wantCode(err, want)
	}
	b.must(b.node.UnstageVolume(b.ctx, v))
}

func (b *bench) stageHealed(v *cluster.Volume, i int, c faulty) {
	if c.fault != "" {
		b.on("DEV=$(losetup -n -O NAME -j /data/faulty%d | tr -d ' '); dmsetup suspend faulty%[1]d; %s; dmsetup resume faulty%[1]d", i, dmTable("load", i, "0 49152 linear $DEV 0"))
	}
	err := b.node.StageVolume(b.ctx, v)
	b.Logf("%s: %v", code(err), err)
	b.wantCode(err, c.wantAfter)
	if err != nil {
		return
	}
	b.must(b.node.PublishVolume(b.ctx, v, false))
	if strings.Contains(c.put, "kept") {
		if got := b.sh("cat %s/kept", v.Target()); got != "kept" {
			b.Errorf("the file holds %q", got)
		}
	}
	b.must(b.node.UnpublishVolume(b.ctx, v))
	b.must(b.node.UnstageVolume(b.ctx, v))
}

// stopped is a mkfs that, the first time, halts with the device open for
// writing until it is told to go on, whatever becomes of its caller.
const stopped = `#!/bin/bash
[ -e /run/mkfs.began ] && exec /usr/sbin/mkfs.ext4 "$@"
# A session of its own: a stopped program is ended with the session that it is in.
setsid /usr/sbin/mkfs.ext4 "$@" & p=$!
writes() { for f in /proc/$p/fdinfo/*; do
  { read -r _ _ && read -r _ flags; } <$f; case $flags in *2) [[ $(readlink /proc/$p/fd/${f##*/}) =~ ^/dev/(nvme|dm-) ]] && return;; esac
done 2>/dev/null; false; }
until writes; do kill -0 $p || exit; done
kill -STOP $p; touch /run/mkfs.began
until [ -e /run/mkfs.goes.on ]; do sleep 0.1; done
kill -CONT $p; wait $p
`

// TestFormatInterrupted ends mkfs, and the plugin in the middle of mkfs, and
// lets the device be slow. The next call must come to a whole file system, and
// what holds data must stay as it is meanwhile.
func TestFormatInterrupted(t *testing.T) {
	anyKernel(t)
	b := newBench(t, 3*time.Minute)
	const wrapper = "/usr/local/bin/mkfs.ext4"
	defer b.sh("rm -f %s", wrapper)
	for name, script := range map[string]string{
		"mkfs killed before it wrote": "exec timeout -s KILL 0.02 /usr/sbin/mkfs.ext4 \"$@\"",
		// The superblock is what mkfs writes last.
		"mkfs killed before its superblock": "/usr/sbin/mkfs.ext4 \"$@\" && dd if=/dev/zero of=${!#} bs=4096 count=1 conv=fsync status=none; kill -KILL $$",
	} {
		b.run(name, func(b *bench) {
			v := b.volume("ext4", 32)
			b.must(b.c.Provision(b.ctx, v))
			b.must(b.c.Attach(b.ctx, v, b.node))
			b.must(b.node.PutBytes(b.ctx, []byte("#!/bin/bash\n"+script+"\n"), wrapper, 0o755))
			err := b.node.StageVolume(b.ctx, v)
			b.sh("rm -f %s", wrapper)
			b.Logf("%s; blocks allocated: %s; %v", code(err), b.on("stat -c %%b %s", v.Image()), err)
			b.wantCode(err, codes.DeadlineExceeded)
			b.wholeAfterAll(v)
		})
	}
	b.run("plugin killed while mkfs goes on", func(b *bench) {
		v := b.volume("ext4", 32)
		b.must(b.c.Provision(b.ctx, v))
		b.must(b.c.Attach(b.ctx, v, b.node))
		b.must(b.node.PutBytes(b.ctx, []byte(stopped), wrapper, 0o755))
		done := make(chan error, 1)
		b.node.NIC(0).Delay(50*time.Millisecond, 0) // or mkfs is over before it can be stopped
		go func() { done <- b.node.StageVolume(b.ctx, v) }()
		b.within(30*time.Second, "mkfs begins", func(ctx context.Context) error {
			_, err := b.node.Shell(ctx, "test -e /run/mkfs.began")
			return err
		})
		b.must(b.node.KillPlugin(b.ctx))
		b.must(b.node.NIC(0).Heal())
		b.Logf("answer to the interrupted call: %v", <-done)
		b.must(b.node.StartPlugin(b.ctx))
		// While it lives, nobody else may format or mount.
		for range 2 {
			err := b.node.StageVolume(b.ctx, v)
			b.Log(err)
			b.wantCode(err, codes.DeadlineExceeded)
		}
		b.sh("pgrep -x mkfs.ext4; touch /run/mkfs.goes.on")
		took := b.within(60*time.Second, "NodeStage after the restart", func(ctx context.Context) error { return b.node.StageVolume(ctx, v) })
		b.Logf("OK %s after the mkfs of the dead plugin went on", seconds(took))
		b.sh("! pgrep -x mkfs.ext4; rm -f %s", wrapper)
		b.wholeAfterAll(v)
	})
	b.run("slow device, with data and without", func(b *bench) {
		blank, full := b.volume("ext4", 16), b.volume("ext4", 16)
		for _, v := range []*cluster.Volume{blank, full} {
			b.must(b.c.Provision(b.ctx, v))
			b.must(b.c.Attach(b.ctx, v, b.node))
		}
		b.on("dd if=/dev/urandom of=%s bs=64k seek=1 count=1 conv=notrunc,fsync status=none", full.Image())
		before := b.shas(full)
		b.node.NIC(0).Delay(500*time.Millisecond, 0)
		for _, v := range []*cluster.Volume{blank, full} {
			ctx, cancel := context.WithTimeout(b.ctx, 4*time.Second)
			err := b.node.StageVolume(ctx, v)
			cancel()
			b.wantCode(err, codes.DeadlineExceeded)
		}
		b.must(b.node.NIC(0).Heal())
		b.within(30*time.Second, "stage of what holds data", func(ctx context.Context) error {
			err := b.node.StageVolume(ctx, full)
			if code(err) == codes.FailedPrecondition {
				return nil
			}
			return fmt.Errorf("%s: %w", code(err), err)
		})
		if b.sha(full) != before[full] {
			b.Error("a volume on a slow path has changed")
		}
		b.within(30*time.Second, "stage of a blank one", func(ctx context.Context) error { return b.node.StageVolume(ctx, blank) })
		b.wholeAfterAll(blank)
		b.must(b.c.Detach(b.ctx, full, b.node))
		b.must(b.c.Delete(b.ctx, full))
	})
}

// wholeAfterAll stages, uses and stages again: the second stage must find the
// file of the first, so the permission to format is gone.
func (b *bench) wholeAfterAll(v *cluster.Volume) {
	b.Helper()
	b.within(30*time.Second, "NodeStage", func(ctx context.Context) error { return b.node.StageVolume(ctx, v) })
	b.must(b.node.PublishVolume(b.ctx, v, false))
	b.sh("echo kept >%s/kept", v.Target())
	b.must(b.c.Drop(b.ctx, v, b.node))
	b.on("e2fsck -fn %s", v.Image())
	b.attach(v)
	if got := b.sh("cat %s/kept", v.Target()); got != "kept" {
		b.Errorf("the file holds %q", got)
	}
	b.drop(v)
}
