//go:build linux && k8s

package kube_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/ack"
	"github.com/holdfast-csi/holdfast/test/kube"
)

// bench is a test with a namespace of its own, which is deleted with all that is in
// it when the test is over, and then nothing may be left of its volumes.
type bench struct {
	*testing.T
	ctx context.Context
	ns  string
}

// testTime bounds a test: a cluster under emulation is slow, and nothing here takes
// half of it.
const testTime = 15 * time.Minute

func newBench(t *testing.T) *bench {
	t.Helper()
	return newBenchFor(t, testTime)
}

func newBenchFor(t *testing.T, limit time.Duration) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	install(t)
	b := &bench{T: t, ctx: ctx, ns: strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))}
	b.kubectl("create", "namespace", b.ns)
	t.Cleanup(func() {
		defer cancel()
		if t.Failed() {
			b.autopsy()
			_, _ = cluster.Kubectl(context.WithoutCancel(b.ctx), "delete", "namespace", b.ns, "--wait=false") // the next test's chance
		}
	})
	return b
}

// kubectl works in the test's namespace.
func (b *bench) kubectl(args ...string) string {
	b.Helper()
	out, err := cluster.Kubectl(b.ctx, append([]string{"-n", b.ns}, args...)...)
	b.must(err)
	return out
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// autopsy prints what a person would look at first.
func (b *bench) autopsy() {
	for _, args := range [][]string{
		{"-n", b.ns, "get", "pods,pvc,events", "-o", "wide"}, {"get", "pv,volumeattachments"}, {"-n", kube.Namespace, "get", "pods", "-o", "wide"},
		{"-n", kube.Namespace, "logs", "-l", "app.kubernetes.io/component=node", "--tail=30", "--prefix"},
	} {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), 20*time.Second)
		out, err := cluster.Kubectl(ctx, args...)
		cancel()
		b.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// claim is a volume of a test.
type claim struct {
	name  string
	class string // "" is "holdfast"
	block bool
	size  string // "" is 64Mi
}

func (b *bench) claim(c claim) {
	b.Helper()
	mode := "Filesystem"
	if c.block {
		mode = "Block"
	}
	b.must(cluster.Apply(b.ctx, fmt.Sprintf(`apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s, namespace: %s}
spec:
  storageClassName: %s
  volumeMode: %s
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: %s}}
`, c.name, b.ns, or(c.class, "holdfast"), mode, or(c.size, "64Mi"))))
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// device and file are where a pod has its volume.
const (
	device = "/dev/volume"
	mount  = "/data"
)

func (c claim) path() string {
	if c.block {
		return device
	}
	return mount + "/file"
}

// pod runs a shell command on a claim, by the test image; node may be empty.
func (b *bench) pod(name string, c claim, node, command string) {
	b.Helper()
	use := "volumeMounts: [{name: volume, mountPath: " + mount + "}]"
	if c.block {
		use = "volumeDevices: [{name: volume, devicePath: " + device + "}]"
	}
	selector := ""
	if node != "" {
		selector = "nodeSelector: {kubernetes.io/hostname: " + node + "}"
	}
	b.must(cluster.Apply(b.ctx, fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s}
spec:
  terminationGracePeriodSeconds: 5
  restartPolicy: Never
  %s
  containers:
    - name: main
      image: %s
      imagePullPolicy: Never
      command: [sh, -c, %q]
      %s
  volumes: [{name: volume, persistentVolumeClaim: {claimName: %s}}]
`, name, b.ns, selector, kube.TestImage, command, use, c.name)))
}

// ready waits for pods.
func (b *bench) ready(names ...string) {
	b.Helper()
	for _, n := range names {
		b.kubectl("wait", "--for=condition=Ready", "pod/"+n, "--timeout=300s")
	}
}

// drop deletes pods and waits until they are gone.
func (b *bench) drop(pods ...string) {
	b.Helper()
	b.kubectl(append([]string{"delete", "pod", "--wait", "--timeout=180s"}, pods...)...)
}

// writer is a pod that writes to a claim all the time, and what it reported.
type writer struct {
	b     *bench
	pod   string
	claim claim
	log   *ack.Log
	ended chan error
	cmd   *exec.Cmd
}

// writerNumber is part of every block.
const (
	writerNumber = 7
	blocks       = 1024
)

func (b *bench) write(c claim, node string) *writer {
	b.Helper()
	w := &writer{b: b, pod: "writer-" + c.name, claim: c, log: ack.NewLog()}
	b.pod(w.pod, c, node, fmt.Sprintf("exec ackio -path %s -writer %d -blocks %d -pause 20ms", c.path(), writerNumber, blocks))
	b.ready(w.pod)
	w.follow()
	return w
}

// follow reads the pod's log, from its beginning if args do not say otherwise. It ends
// with the kubelet, and has to be done again then.
func (w *writer) follow(args ...string) {
	w.b.Helper()
	w.cmd = cluster.Command(w.b.ctx, "kubectl", append([]string{"-n", w.b.ns, "logs", "-f", w.pod}, args...)...)
	out, err := w.cmd.StdoutPipe()
	w.b.must(err)
	w.b.must(w.cmd.Start())
	ended := make(chan error, 1)
	w.ended = ended
	go func() { ended <- w.log.Read(out) }()
}

// goesOn waits until a write is acknowledged that was made after a moment, and says
// how long that took.
func (w *writer) goesOn(after time.Time, within time.Duration) time.Duration {
	w.b.Helper()
	for end := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		if at, ok := w.log.FirstAfter(after); ok {
			return at.Sub(after)
		}
		if time.Now().After(end) {
			w.b.Fatalf("%s: nothing is written %s after %s", w.pod, within, after.Format(time.TimeOnly))
		}
	}
}

// neverFailed says whether the pod saw no error and is the one that it was.
func (w *writer) neverFailed() {
	w.b.Helper()
	if errs := w.log.Errors(); len(errs) > 0 {
		w.b.Errorf("%s: %d I/O errors, the first: %s", w.pod, len(errs), errs[0])
	}
	var pod struct {
		Status struct {
			Phase             string
			ContainerStatuses []struct{ RestartCount int }
		}
	}
	w.b.must(cluster.Get(w.b.ctx, &pod, "-n", w.b.ns, "pod", w.pod))
	if pod.Status.Phase != "Running" || len(pod.Status.ContainerStatuses) != 1 || pod.Status.ContainerStatuses[0].RestartCount != 0 {
		w.b.Errorf("%s: %+v", w.pod, pod.Status)
	}
}

// stop ends the writer in order and waits until its pod is gone.
func (w *writer) stop() {
	w.b.Helper()
	w.b.drop(w.pod)
	if err := <-w.ended; err != nil {
		w.b.Errorf("%s: %v", w.pod, err)
	}
	_ = w.cmd.Wait() // the pod is gone, and kubectl may say so
}

// verify reads what was written, in another pod, and compares it with what was
// acknowledged.
func (w *writer) verify(node string) {
	w.b.Helper()
	name := "reader-" + w.claim.name
	w.b.pod(name, w.claim, node, "sleep 3600")
	w.b.ready(name)
	out := w.b.kubectl("exec", name, "--", "ackio", "-dump", "-path", w.claim.path(), "-blocks", fmt.Sprint(blocks))
	content, err := ack.Undump([]byte(out))
	w.b.must(err)
	r, err := w.log.Verify(readerAt(content), writerNumber)
	w.b.must(err)
	if r.Blocks == 0 || r.Lost > 0 || r.Corrupt > 0 {
		w.b.Errorf("%s: %+v", w.claim.name, r)
	}
	w.b.Logf("%s: %d writes acknowledged, %d blocks compared", w.claim.name, w.log.Acked(), r.Blocks)
	w.b.drop(name)
}

func readerAt(content []byte) io.ReaderAt { return bytes.NewReader(content) }

// clean deletes everything of the test and waits until nothing is left of it on
// nodes and storage hosts.
func (b *bench) clean() {
	b.Helper()
	_, err := cluster.Kubectl(b.ctx, "delete", "namespace", b.ns, "--timeout=180s")
	b.must(err)
	b.must(kube.WaitFor(b.ctx, 2*time.Minute, "nothing is left", func(ctx context.Context) (bool, error) {
		left, err := cluster.Leftovers(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left: %s", strings.Join(left, "; "))
		}
		return err == nil, err
	}))
}
