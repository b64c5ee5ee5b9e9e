//go:build vm

package e2e

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// call is one of the calls of a volume's life.
type call struct {
	name string
	do   func(context.Context) error
}

func (b *bench) bringing(v *cluster.Volume) []call {
	return []call{
		{"CreateVolume", func(ctx context.Context) error { return b.c.Provision(ctx, v) }},
		{"ControllerPublishVolume", func(ctx context.Context) error { return b.c.Attach(ctx, v, b.node) }},
		{"NodeStageVolume", func(ctx context.Context) error { return b.node.StageVolume(ctx, v) }},
		{"NodePublishVolume", func(ctx context.Context) error { return b.node.PublishVolume(ctx, v, false) }},
	}
}

func (b *bench) taking(v *cluster.Volume) []call {
	return []call{
		{"NodeUnpublishVolume", func(ctx context.Context) error { return b.node.UnpublishVolume(ctx, v) }},
		{"NodeUnstageVolume", func(ctx context.Context) error { return b.node.UnstageVolume(ctx, v) }},
		{"ControllerUnpublishVolume", func(ctx context.Context) error { return b.c.Detach(ctx, v, b.node) }},
		{"DeleteVolume", func(ctx context.Context) error { return b.c.Delete(ctx, v) }},
	}
}

// TestCallsRepeated makes every call of a volume's life again: after its answer
// was lost, after its answer came, and twice at the same time. Each succeeds,
// nothing is mounted twice, and a session in use is not touched.
func TestCallsRepeated(t *testing.T) {
	anyKernel(t)
	for _, fsType := range []string{"ext4", ""} {
		v := &cluster.Volume{FSType: fsType}
		t.Run(kindOf(v), func(t *testing.T) {
			b := newBench(t, 3*time.Minute)
			neighbour := b.volume("", 8)
			b.use(neighbour)
			other, control := b.write(neighbour), b.controls()
			sessions, began := b.sessions(), time.Now()

			v := b.volume(fsType, 16)
			a := &again{bench: b, random: rand.New(rand.NewPCG(1, uint64(len(fsType))))}
			for _, c := range b.bringing(v) {
				a.repeat(c)
			}
			mounted := b.mounts()
			b.once(v, mounted)
			own := b.write(v)
			inUse := time.Now()
			// Everything that made it, while it is in use: a plugin that was
			// restarted, or a kubelet, may call any of it again.
			for range 2 {
				for _, c := range b.bringing(v) {
					a.again(c)
					a.together(c)
				}
			}
			if got := b.mounts(); got != mounted {
				t.Errorf("mount table before:\n%s\nafter repeated calls:\n%s", mounted, got)
			}
			b.Logf("longest stall while the calls were repeated: %s of the volume, %s of its neighbour", own.calm(inUse, control), other.calm(began, control))
			own.stop()
			for _, c := range b.taking(v)[:3] {
				a.repeat(c)
			}
			own.verify()
			for _, c := range b.taking(v)[3:] {
				a.repeat(c)
			}
			for _, c := range b.taking(v) { // and all of it once more, when nothing is left
				a.again(c)
			}
			if got := b.sessions(); got != sessions {
				t.Errorf("connections before:\n%s\nafter:\n%s", sessions, got)
			}
			b.Logf("longest stall of the neighbour over all: %s", other.calm(began, control))
			control.stop()
			other.stop()
			b.drop(neighbour)
			b.Logf("%d calls: %d had lost their answer, %d were put off with Aborted", a.calls, a.lost, a.aborted)
		})
	}
}

type again struct {
	*bench
	random               *rand.Rand
	calls, lost, aborted int
}

func (a *again) repeat(c call) {
	a.Helper()
	a.cutOff(c)
	a.again(c)
	a.together(c)
	a.again(c)
}

// cutOff loses the answer of a call and makes it again. While the first is at
// work, Aborted is the right answer.
func (a *again) cutOff(c call) {
	a.Helper()
	ctx, cancel := context.WithTimeout(a.ctx, time.Duration(2+a.random.IntN(150))*time.Millisecond)
	err := c.do(ctx)
	cancel()
	a.calls++
	if err != nil {
		a.lost++
		if got := code(err); got != codes.DeadlineExceeded && got != codes.Canceled {
			a.Errorf("%s whose caller went away: %v", c.name, err)
		}
	}
	a.within(20*time.Second, c.name+" after its answer was lost", func(ctx context.Context) error {
		a.calls++
		err := c.do(ctx)
		switch code(err) {
		case codes.OK, codes.DeadlineExceeded:
		case codes.Aborted:
			a.aborted++
		default:
			a.Fatalf("%s after its answer was lost: %v", c.name, err)
		}
		return err
	})
}

// again makes a call that has succeeded: it succeeds at once.
func (a *again) again(c call) {
	a.Helper()
	a.calls++
	if err := c.do(a.ctx); err != nil {
		a.Fatalf("%s again: %v", c.name, err)
	}
}

// together makes a call twice at the same time: one may be put off.
func (a *again) together(c call) {
	a.Helper()
	errs := make(chan error, 2)
	for range 2 {
		go func() { errs <- c.do(a.ctx) }()
	}
	ok := 0
	for range 2 {
		a.calls++
		switch err := <-errs; code(err) {
		case codes.OK:
			ok++
		case codes.Aborted:
			a.aborted++
		default:
			a.Fatalf("%s twice at once: %v", c.name, err)
		}
	}
	if ok == 0 {
		a.Fatalf("%s twice at once: both were put off", c.name)
	}
}

// once ends the test if a path of the volume is mounted more than once.
func (b *bench) once(v *cluster.Volume, mounts string) {
	b.Helper()
	for _, path := range []string{v.Staging(), v.Target()} {
		want := 1
		if v.FSType == "" && path == v.Staging() {
			want = 0
		}
		if n := countWord(mounts, path); n != want {
			b.Fatalf("%s is mounted %d times, want %d:\n%s", path, n, want, mounts)
		}
	}
}

func countWord(text, word string) (n int) {
	for _, w := range strings.Fields(text) {
		if w == word {
			n++
		}
	}
	return n
}
