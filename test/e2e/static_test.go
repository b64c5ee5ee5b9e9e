//go:build vm

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// TestStaticVolumes uses a target that somebody else runs, named by a
// PersistentVolume: by NSID, by UUID, over two addresses. A namespace that is
// not the one that is named is not touched.
func TestStaticVolumes(t *testing.T) {
	anyKernel(t)
	b := newBench(t, 4*time.Minute)
	f := b.target("static", 4421, 4422)
	for i := 1; i <= 2; i++ {
		b.on("truncate -s 24M /data/static%d", i)
		f.namespace(i, b.on("losetup -f --show /data/static%d", i))
	}
	byNSID, byUUID := f.static("ext4", 24, "nsid", "1", "formatIfZero", "true"), f.static("", 24, "uuid", f.uuid(2))
	for _, v := range []*cluster.Volume{byNSID, byUUID} {
		b.attach(v)
	}
	b.Logf("two volumes of one target over two addresses: %d controllers", b.controllers())
	if n := b.controllers(); n != 2 {
		t.Errorf("%d controllers, want one for each address:\n%s", n, b.sessions())
	}
	b.run("another namespace than the one named", func(b *bench) {
		before := b.sessions()
		for _, v := range []*cluster.Volume{
			f.static("", 24, "nsid", "1", "uuid", f.uuid(2)),
			f.static("ext4", 24, "nsid", "1", "uuid", f.uuid(3), "formatIfZero", "true"),
		} {
			b.must(b.c.Attach(b.ctx, v, b.node))
			err := b.node.StageVolume(b.ctx, v)
			b.Log(err)
			b.wantCode(err, codes.FailedPrecondition)
			b.must(b.node.UnstageVolume(b.ctx, v))
		}
		if after := b.sessions(); after != before {
			b.Errorf("refusals changed the connections that others use:\n%s\nbefore:\n%s", after, before)
		}
	})
	b.run("a namespace that is not there", func(b *bench) {
		v := f.static("", 24, "uuid", f.uuid(9))
		ctx, cancel := context.WithTimeout(b.ctx, 2*time.Second)
		defer cancel()
		err := b.node.StageVolume(ctx, v)
		b.Log(err)
		if c := code(err); c != codes.Unavailable && c != codes.DeadlineExceeded {
			b.Errorf("code %s, want an answer that is not final", c)
		}
		b.within(10*time.Second, "unstage", func(ctx context.Context) error { return b.node.UnstageVolume(ctx, v) })
	})
	b.run("one of two addresses is lost", func(b *bench) { b.loseAddress(f, byNSID, byUUID) })
	for _, v := range []*cluster.Volume{byNSID, byUUID} {
		b.must(b.c.Detach(b.ctx, v, b.node))
	}
	b.nodeHoldsNothing()
	if out := b.on("head -c 64 /data/static2 | tr -d '\\0'"); !strings.Contains(out, "written to the second") {
		t.Errorf("the second namespace holds %q", out)
	}
	f.remove()
	b.on("losetup -D; e2fsck -fn /data/static1; rm /data/static1 /data/static2")
}

// loseAddress: with a second address I/O goes on while the first is away, in
// either order, and the lost connection comes back.
func (b *bench) loseAddress(f *foreign, byNSID, byUUID *cluster.Volume) {
	byNSID.Publish = map[string]string{"nqn": f.nqn}
	w, control := b.write(byNSID), b.controls()
	for _, port := range f.ports {
		cut := time.Now()
		b.must(b.storage.Refuse(b.ctx, port))
		refused := time.Now()
		w.acked(10*time.Second, refused)
		time.Sleep(2 * time.Second)
		b.Logf("address at port %d refused: longest stall %s", port, w.calm(cut, control))
		b.must(b.storage.Unrefuse(b.ctx, port))
		b.within(20*time.Second, "both connections are live", func(context.Context) error { return b.allLive(byNSID, 2) })
	}
	b.sh("echo written to the second | dd of=%s bs=4096 conv=sync oflag=direct status=none", byUUID.Target())
	control.stop()
	w.stop()
	for _, v := range []*cluster.Volume{byNSID, byUUID} {
		b.must(b.node.UnpublishVolume(b.ctx, v))
		b.must(b.node.UnstageVolume(b.ctx, v))
	}
}

// TestReadOnly: a pod's read-only view of a writable stage, and a volume that
// is staged read-only.
func TestReadOnly(t *testing.T) {
	anyKernel(t)
	b := newBench(t, 2*time.Minute)
	v := b.volume("ext4", 16)
	b.use(v)
	b.sh("echo kept >%s/kept; sync -f %[1]s", v.Target())
	b.must(b.node.PublishVolume(b.ctx, v, true)) // the same path, another mode
	b.readOnly(v)
	b.must(b.node.PublishVolume(b.ctx, v, true))
	b.once(v, b.mounts())
	b.must(b.node.PublishVolume(b.ctx, v, false))
	b.sh("echo more >%s/more", v.Target())
	b.must(b.c.Drop(b.ctx, v, b.node))

	v.ReadOnly = true
	b.attach(v)
	b.readOnly(v)
	if got := b.sh("cat %s/more", v.Target()); got != "more" {
		t.Errorf("the file holds %q", got)
	}
	b.drop(v)

	blank := b.volume("ext4", 16)
	blank.ReadOnly = true
	b.must(b.c.Provision(b.ctx, blank))
	b.must(b.c.Attach(b.ctx, blank, b.node))
	b.wantCode(b.node.StageVolume(b.ctx, blank), codes.FailedPrecondition)
	if n := b.on("stat -c %%b %s", blank.Image()); n != "0" {
		t.Errorf("%s blocks of a volume that was asked for read-only are written", n)
	}
	b.nodeHoldsNothing()
	b.must(b.c.Detach(b.ctx, blank, b.node))
	b.must(b.c.Delete(b.ctx, blank))
}

func (b *bench) readOnly(v *cluster.Volume) {
	b.Helper()
	if out := b.sh("echo x 2>&1 >%s/x || true", v.Target()); !strings.Contains(out, "Read-only file system") {
		b.Errorf("write to a read-only view: %q", out)
	}
	if got := b.sh("cat %s/kept", v.Target()); got != "kept" {
		b.Errorf("the file holds %q", got)
	}
}
