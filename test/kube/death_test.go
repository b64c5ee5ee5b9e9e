//go:build linux && k8s

package kube_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

var deaths = flag.Int("deaths", 1, "how often a node dies")

// A node dies with the pod of a StatefulSet on it, and is declared dead: the pod comes
// up on the other node with all that was acknowledged, and goes on. The dead node
// comes back and has nothing of it.
func nodeDeath(t *testing.T) {
	b := newBenchFor(t, testTime+time.Duration(*deaths)*5*time.Minute)
	b.must(cluster.Apply(b.ctx, fmt.Sprintf(statefulSet, b.ns, kube.TestImage)))
	j := &journal{b: b, pod: "db-0"}
	j.follow()
	for round := range *deaths {
		at := b.nodeOf(j.pod)
		dead := cluster.Node(at)
		j.grows(time.Minute)
		b.must(dead.PowerCut())
		died := time.Now()
		b.kubectl("taint", "node", at, "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute")
		b.must(kube.WaitFor(b.ctx, 5*time.Minute, "pod "+j.pod+" on another node", func(context.Context) (bool, error) {
			on := b.nodeOf(j.pod)
			return on != "" && on != at, nil
		}))
		j.follow()
		j.grows(2 * time.Minute)
		t.Logf("round %d: %s died, its pod writes on %s after %.0f s", round+1, at, b.nodeOf(j.pod), time.Since(died).Seconds())
		b.must(dead.PowerOn(b.ctx))
		b.kubectl("wait", "--for=condition=Ready", "node/"+at, "--timeout=180s")
		b.kubectl("taint", "node", at, "node.kubernetes.io/out-of-service-")
		b.must(cluster.Ready(b.ctx))
		b.hasNothing(dead)
		j.grows(time.Minute)
	}
	j.verify()
	b.kubectl("delete", "statefulset", "db", "--wait", "--timeout=120s")
	b.clean()
}

// statefulSet appends to a journal, syncs it, and says so. Each of its pods has an
// identity of its own.
const statefulSet = `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: %s}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: main
          image: %s
          imagePullPolicy: Never
          command: [sh, -ec, "id=$(cat /proc/sys/kernel/random/uuid); n=0; while :; do n=$((n+1)); echo \"$id $n\" >>/data/journal; sync; echo \"$id $n\"; sleep 0.2; done"]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        storageClassName: holdfast
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 64Mi}}
`

// nodeOf is the node on which a pod runs; "" while it does not.
func (b *bench) nodeOf(pod string) string {
	b.Helper()
	var p struct {
		Spec   struct{ NodeName string }
		Status struct{ Phase string }
	}
	if err := cluster.Get(b.ctx, &p, "-n", b.ns, "pod", pod); err != nil || p.Status.Phase != "Running" {
		return ""
	}
	return p.Spec.NodeName
}

// hasNothing waits until a node has nothing of any volume.
func (b *bench) hasNothing(n *kube.Node) {
	b.Helper()
	b.must(kube.WaitFor(b.ctx, 2*time.Minute, n.Name()+" has nothing", func(ctx context.Context) (bool, error) {
		left, err := n.Holds(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left: %s", strings.Join(left, "; "))
		}
		return err == nil, err
	}))
}

// journal is what the pod says that it has written.
type journal struct {
	b   *bench
	pod string

	mu    sync.Mutex
	lines []string // acknowledged, in their order
	seen  map[string]bool
	cmd   *exec.Cmd
}

// follow reads the log of the pod that is there now, instead of one that was there.
func (j *journal) follow() {
	j.b.Helper()
	j.b.must(kube.WaitFor(j.b.ctx, 5*time.Minute, "pod "+j.pod+" runs", func(context.Context) (bool, error) { return j.b.nodeOf(j.pod) != "", nil }))
	if j.cmd != nil {
		_ = j.cmd.Process.Kill() // it hangs on a machine without power
		_ = j.cmd.Wait()
	}
	j.cmd = cluster.Command(j.b.ctx, "kubectl", "-n", j.b.ns, "logs", "-f", j.pod)
	out, err := j.cmd.StdoutPipe()
	j.b.must(err)
	j.b.must(j.cmd.Start())
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			j.add(s.Text())
		}
	}()
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.seen == nil {
		j.seen = map[string]bool{}
	}
	if !j.seen[line] {
		j.seen[line] = true
		j.lines = append(j.lines, line)
	}
}

func (j *journal) acked() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

// grows waits until the pod that is followed has acknowledged ten lines more.
func (j *journal) grows(within time.Duration) {
	j.b.Helper()
	before := len(j.acked())
	j.b.must(kube.WaitFor(j.b.ctx, within, "the journal grows", func(context.Context) (bool, error) { return len(j.acked()) >= before+10, nil }))
}

// verify reads the journal in the pod: every acknowledged line is there once, in its
// order, and no pod has written after its successor began.
func (j *journal) verify() {
	j.b.Helper()
	acked := j.acked() // before the look: the pod goes on
	text := j.b.kubectl("exec", j.pod, "--", "cat", "/data/journal")
	there := map[string]int{}
	var writers []string
	for line := range strings.Lines(text) {
		id, n, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || n == "" {
			j.b.Errorf("a torn line: %q", line)
		}
		there[strings.TrimSpace(line)]++
		if len(writers) == 0 || writers[len(writers)-1] != id {
			writers = append(writers, id)
		}
	}
	if want := slices.Compact(slices.Sorted(slices.Values(writers))); len(want) != len(writers) {
		j.b.Errorf("pods wrote after their successors: %v", writers)
	}
	for _, line := range acked {
		if there[line] != 1 {
			j.b.Errorf("%q was acknowledged, and is there %d times", line, there[line])
		}
	}
	j.b.Logf("%d lines acknowledged by %d pods compared", len(acked), len(writers))
}
