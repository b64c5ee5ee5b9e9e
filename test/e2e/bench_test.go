//go:build vm

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// shared is the cluster that the tests use one after another. A test that fails
// throws it away, because nobody knows what it left.
var shared *cluster.Cluster

func TestMain(m *testing.M) {
	code := m.Run()
	discard()
	os.Exit(code)
}

func discard() {
	if shared != nil {
		if err := shared.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close the cluster:", err)
		}
	}
	shared = nil
}

// bench is a test with the cluster and a bound on its time.
type bench struct {
	*testing.T
	ctx     context.Context
	c       *cluster.Cluster
	node    *cluster.Node
	storage *cluster.Storage
}

// bootTime bounds building and booting, which the first test does for all.
const bootTime = 3 * time.Minute

func newBench(t *testing.T, limit time.Duration) *bench {
	t.Helper()
	if shared == nil {
		ctx, cancel := context.WithTimeout(context.Background(), bootTime)
		defer cancel()
		c, err := cluster.Start(ctx, cluster.Config{Name: "e2e", Kernel: os.Getenv("HOLDFAST_KERNEL"), Volatile: true, Log: logf})
		if err != nil {
			t.Fatal(err)
		}
		shared = c
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	b := &bench{T: t, ctx: ctx, c: shared, node: shared.Nodes[0], storage: shared.Storages[0]}
	seen := [2]int{len(b.node.PluginLog(ctx)), len(b.storage.Log(ctx))}
	began := time.Now()
	t.Cleanup(func() {
		b.noLeaks()
		cancel()
		t.Logf("%s took %.1f s", t.Name(), time.Since(began).Seconds())
		if t.Failed() {
			b.explain(seen)
			discard()
		}
	})
	return b
}

// anyKernel marks a test whose outcome does not depend on the kernel. Where
// HOLDFAST_KERNEL_TESTS_ONLY is set, which the Makefile does for all kernels but
// the first, it is left out, and says so.
func anyKernel(t *testing.T) {
	t.Helper()
	if os.Getenv("HOLDFAST_KERNEL_TESTS_ONLY") != "" {
		t.Skip("does not depend on the kernel, and HOLDFAST_KERNEL_TESTS_ONLY is set")
	}
}

// logf is for the cluster, which outlives the test that started it.
func logf(format string, args ...any) { fmt.Printf("    "+format+"\n", args...) }

// with is the bench of a subtest.
func (b *bench) with(t *testing.T) *bench {
	sub := *b
	sub.T = t
	return &sub
}

// run runs a part of a test; the parts share what the test has made.
func (b *bench) run(name string, part func(b *bench)) {
	b.Run(name, func(t *testing.T) { part(b.with(t)) })
}

// noLeaks is the end of every test.
func (b *bench) noLeaks() {
	if b.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	left, err := b.c.Leaks(ctx)
	if err != nil {
		b.Error(err)
	}
	for _, l := range left {
		b.Errorf("left behind: %s", l)
	}
}

// explain prints what the roles said since the test began.
func (b *bench) explain(seen [2]int) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	node, agent := b.node.PluginLog(ctx), b.storage.Log(ctx)
	b.Logf("--- node plugin ---\n%s", node[min(seen[0], len(node)):])
	b.Logf("--- agent ---\n%s", agent[min(seen[1], len(agent)):])
	for _, m := range []interface {
		Shell(context.Context, string) (string, error)
		Name() string
	}{b.node, b.storage.Machine} {
		text, err := m.Shell(ctx, "dmesg | tail -n 60")
		b.Logf("--- kernel of %s ---\n%s %v", m.Name(), text, err)
	}
}

// must ends the test at an error.
func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// sh runs a script on the node, on runs it on the storage host.
func (b *bench) sh(format string, args ...any) string {
	b.Helper()
	out, err := b.node.Shell(b.ctx, fmt.Sprintf(format, args...))
	b.must(err)
	return out
}

func (b *bench) on(format string, args ...any) string {
	b.Helper()
	out, err := b.storage.Shell(b.ctx, fmt.Sprintf(format, args...))
	b.must(err)
	return out
}

var names atomic.Int64

// volume is one that no test has used before.
func (b *bench) volume(fsType string, mib int64, params ...string) *cluster.Volume {
	v := &cluster.Volume{Name: fmt.Sprintf("v%d", names.Add(1)), FSType: fsType, SizeBytes: mib << 20}
	for i := 0; i+1 < len(params); i += 2 {
		if v.Parameters == nil {
			v.Parameters = map[string]string{}
		}
		v.Parameters[params[i]] = params[i+1]
	}
	return v
}

// use brings new volumes to the node, drop takes them away and deletes them.
func (b *bench) use(vs ...*cluster.Volume) {
	b.Helper()
	for _, v := range vs {
		b.must(b.c.Use(b.ctx, v, b.node))
	}
}

func (b *bench) drop(vs ...*cluster.Volume) {
	b.Helper()
	for _, v := range vs {
		b.must(b.c.Drop(b.ctx, v, b.node))
		b.must(b.c.Delete(b.ctx, v))
	}
}

// attach publishes volumes to the node and stages them.
func (b *bench) attach(vs ...*cluster.Volume) {
	b.Helper()
	for _, v := range vs {
		b.must(b.c.Attach(b.ctx, v, b.node))
		b.must(b.node.StageVolume(b.ctx, v))
		b.must(b.node.PublishVolume(b.ctx, v, false))
	}
}

// within calls f again until it succeeds, as the kubelet and the attacher do,
// and tells how long that took.
func (b *bench) within(limit time.Duration, what string, f func(context.Context) error) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	began := time.Now()
	for {
		err := f(ctx)
		if err == nil {
			return time.Since(began)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			b.Fatalf("%s: not within %s: %v", what, limit, err)
		}
	}
}

// image is the content of a volume's file on the storage host, read past all
// caches there.
func (b *bench) image(v *cluster.Volume) []byte {
	b.Helper()
	var out bytes.Buffer
	cmd := b.storage.Command(b.ctx, "dd", "if="+v.Image(), "bs=1M", "iflag=direct", "status=none")
	cmd.Stdout = &out
	b.must(cmd.Run())
	if int64(out.Len()) < v.SizeBytes {
		b.Fatalf("%s has %d bytes, want %d", v.Image(), out.Len(), v.SizeBytes)
	}
	return out.Bytes()
}

// sha is the SHA-256 of a volume's file on the storage host, shas those of
// several; nothing of them is in a cache when they are read.
func (b *bench) sha(v *cluster.Volume) string {
	b.Helper()
	return b.shas(v)[v]
}

func (b *bench) shas(vs ...*cluster.Volume) map[*cluster.Volume]string {
	b.Helper()
	script := "echo 1 >/proc/sys/vm/drop_caches; sha256sum"
	for _, v := range vs {
		script += " " + v.Image()
	}
	lines := strings.Split(b.on("%s", script), "\n")
	out := map[*cluster.Volume]string{}
	for i, v := range vs {
		out[v], _, _ = strings.Cut(lines[i], " ")
	}
	return out
}

// wantCode ends the test if err has not the code.
func (b *bench) wantCode(err error, want codes.Code) {
	b.Helper()
	if got := code(err); got != want {
		b.Fatalf("code %s, want %s: %v", got, want, err)
	}
}

// code unwraps what the cluster has wrapped.
func code(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	st, _ := status.FromError(err)
	return st.Code()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
