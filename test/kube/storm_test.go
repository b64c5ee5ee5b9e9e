//go:build linux && k8s && long

package kube_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

var stormSize = flag.Int("storm", 100, "claims and pods of TestStorm")

// A hundred claims and their pods at once, and all deleted at once: none fails, none
// is left, and what each costs the API server is known.
func TestStorm(t *testing.T) {
	b := newBenchFor(t, 90*time.Minute)
	before, err := cluster.Requests(kube.Namespace)
	b.must(err)
	var objects strings.Builder
	for i := range *stormSize {
		fmt.Fprintf(&objects, stormPod, i, b.ns, kube.TestImage)
	}
	began := time.Now()
	b.must(cluster.Apply(b.ctx, objects.String()))
	b.must(kube.WaitFor(b.ctx, 50*time.Minute, "all pods run", func(ctx context.Context) (bool, error) {
		n, err := b.running(ctx)
		return n == *stormSize, errOr(err, "%d of %d run", n, *stormSize)
	}))
	t.Logf("%d claims and pods: all run after %s", *stormSize, time.Since(began).Round(time.Second))
	b.memory()
	b.onlyPatience()
	began = time.Now()
	b.kubectl("delete", "pods,pvc", "--all", "--grace-period=1", "--timeout=40m")
	b.clean()
	t.Logf("all deleted and nothing left after %s", time.Since(began).Round(time.Second))
	after, err := cluster.Requests(kube.Namespace)
	b.must(err)
	for _, what := range slices.Sorted(maps.Keys(after)) {
		if n := after[what] - before[what]; n > *stormSize/10 {
			t.Logf("%5.1f API calls a volume: %s", float64(n)/float64(*stormSize), what)
		}
	}
}

// onlyPatience looks at what people were warned of. A call that was not done in its
// time and is made again, once or twice for a volume, is what a node with so much to do
// at once looks like; anything else has failed.
func (b *bench) onlyPatience() {
	b.Helper()
	warnings := b.kubectl("get", "events", "--field-selector", "type=Warning", "-o", `jsonpath={range .items[*]}{.reason} {.message}{"\n"}{end}`)
	late := map[string]int{}
	for line := range strings.Lines(warnings) {
		reason, _, _ := strings.Cut(line, " ")
		switch {
		case strings.HasPrefix(reason, "FailedScheduling"):
		case strings.Contains(line, "DeadlineExceeded"), strings.Contains(line, "Aborted"), strings.Contains(line, "timed out"):
			late[reason]++
		case strings.Contains(reason, "Failed"):
			b.Errorf("%s", line)
		}
	}
	for reason, n := range late {
		if n > 2**stormSize {
			b.Errorf("%s: %d times", reason, n)
		}
	}
	b.Logf("calls that were made again because they were not done in time: %v", late)
}

func (b *bench) running(ctx context.Context) (n int, err error) {
	out, err := cluster.Kubectl(ctx, "-n", b.ns, "get", "pods", "-o", "json")
	if err != nil {
		return 0, err
	}
	var list struct {
		Items []struct{ Status struct{ Phase string } }
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return 0, err
	}
	for _, p := range list.Items {
		if p.Status.Phase == "Running" {
			n++
		}
	}
	return n, nil
}

// stormPod is a claim and a pod that uses it.
const stormPod = `---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: v%[1]d, namespace: %[2]s}
spec:
  storageClassName: holdfast
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 32Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: p%[1]d, namespace: %[2]s}
spec:
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  containers:
    - name: main
      image: %[3]s
      imagePullPolicy: Never
      command: [sh, -ec, "echo here >/data/file; sync; exec sleep 86400"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: v%[1]d}}]
`
