//go:build linux && k8s && long

package kube_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

// loadTime is how long pgbench runs: longer than all that happens meanwhile.
const loadTime = 9 * time.Minute

// A database that people know, with clients that never pause: whatever happens to
// storage host, network, plugin, controller and kubelet, no transaction fails, no pod
// is restarted, and the books are right to the cent.
func TestDatabase(t *testing.T) {
	b := newBenchFor(t, 25*time.Minute)
	image, err := cluster.PostgresImage(b.ctx)
	b.must(err)
	b.must(cluster.Apply(b.ctx, fmt.Sprintf(postgres, b.ns, image, image, int(loadTime.Seconds()))))
	b.ready("pg-0")
	b.must(kube.WaitFor(b.ctx, 4*time.Minute, "pgbench has begun", func(ctx context.Context) (bool, error) {
		out, err := cluster.Kubectl(ctx, "-n", b.ns, "logs", "pg-0", "-c", "load", "--tail=3")
		return strings.Contains(out, "progress: "), err
	}))
	began := time.Now()
	b.misfortunes("pg-0")
	if left := loadTime - time.Since(began); left < 0 {
		t.Fatalf("the misfortunes took %s longer than the load", -left)
	}
	report := b.finished("pg-0", loadTime+3*time.Minute)
	b.notRestarted("pg-0")
	b.booksAreRight("pg-0", report)
	b.kubectl("delete", "statefulset", "pg", "--wait", "--timeout=120s")
	b.clean()
}

// misfortunes are all that happens while the load goes on.
func (b *bench) misfortunes(pod string) {
	b.Helper()
	box, node := cluster.Storages[0], cluster.Node(b.nodeOf(pod))
	steps := []struct {
		name string
		do   func() error
	}{
		{"power of the storage host cut, and it boots again", func() error { return during(5*time.Second, box.PowerCut, func() error { return box.PowerOn(b.ctx) }) }},
		{"cable of the storage host pulled for two minutes", func() error { return during(2*time.Minute, box.NIC(0).Unplug, box.NIC(0).Heal) }},
		{"node plugin upgraded by helm during an outage", func() error {
			return during(0, func() error {
				if err := box.Refuse(b.ctx, 4420); err != nil {
					return err
				}
				return cluster.Upgrade(b.ctx, "logDebug=true")
			}, func() error { return box.Unrefuse(b.ctx, 4420) })
		}},
		{"controller killed", func() error {
			_, err := cluster.Kubectl(b.ctx, "-n", kube.Namespace, "delete", "pod", "-l", "app.kubernetes.io/component=controller", "--force", "--grace-period=0")
			return err
		}},
		{"kubelet killed and started", func() error {
			return during(10*time.Second, func() error { return node.KillKubelet(b.ctx) }, func() error { return node.StartKubelet(b.ctx) })
		}},
	}
	for _, s := range steps {
		b.Log(s.name)
		b.must(s.do())
		time.Sleep(15 * time.Second) // transactions between one and the next
	}
	b.must(cluster.Ready(b.ctx))
}

// during does one thing, and another one after a while.
func during(d time.Duration, begin, end func() error) error {
	if err := begin(); err != nil {
		return err
	}
	time.Sleep(d)
	return end()
}

// finished waits for pgbench's report.
func (b *bench) finished(pod string, within time.Duration) (report string) {
	b.Helper()
	b.must(kube.WaitFor(b.ctx, within, "pgbench's report", func(ctx context.Context) (bool, error) {
		out, err := cluster.Kubectl(ctx, "-n", b.ns, "logs", pod, "-c", "load")
		report = out
		return strings.Contains(out, "load is over"), err
	}))
	_, summary, _ := strings.Cut(report, "transaction type:")
	b.Log(strings.TrimSpace(summary))
	for _, bad := range []string{"aborted", "ERROR", "FATAL", "fatal:", "error:"} {
		if strings.Contains(report, bad) {
			b.Errorf("pgbench says %q", bad)
		}
	}
	if !strings.Contains(report, "number of failed transactions: 0 (0.000%)") {
		b.Errorf("no word that no transaction failed")
	}
	return report
}

// notRestarted says whether all containers of a pod are those that it began with.
func (b *bench) notRestarted(pod string) {
	b.Helper()
	for n := range strings.FieldsSeq(b.kubectl("get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[*].restartCount}")) {
		if n != "0" {
			b.Errorf("a container of %s was restarted %s times", pod, n)
		}
	}
}

// booksAreRight: TPC-B's invariant, that all balances agree with the history, and as
// many entries as pgbench counted.
func (b *bench) booksAreRight(pod, report string) {
	b.Helper()
	_, after, _ := strings.Cut(report, "number of transactions actually processed: ")
	processed, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(after, "\n", 2)[0]))
	b.must(err)
	out := b.kubectl("exec", pod, "-c", "server", "--", "psql", "-h", "/run/pg", "-U", "postgres", "-At", "-F", " ", "-c",
		"select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), (select sum(tbalance) from pgbench_tellers), (select sum(delta) from pgbench_history), (select count(*) from pgbench_history)")
	f := strings.Fields(out)
	if len(f) != 5 || f[0] != f[1] || f[1] != f[2] || f[2] != f[3] || f[4] != strconv.Itoa(processed) {
		b.Errorf("accounts, branches, tellers, history, entries: %v; pgbench counted %d", f, processed)
	}
	b.Logf("%d transactions, all on the books: %v", processed, f)
}

// postgres is a server with data checksums, and its clients beside it.
const postgres = `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: pg, namespace: %s}
spec:
  serviceName: pg
  selector: {matchLabels: {app: pg}}
  template:
    metadata: {labels: {app: pg}}
    spec:
      securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999}
      terminationGracePeriodSeconds: 30
      containers:
        - name: server
          image: %s
          imagePullPolicy: Never
          command: [sh, -ec]
          args:
            - |
              [ -s /data/pg/PG_VERSION ] || initdb --data-checksums --auth=trust --no-locale -E UTF8 -U postgres -D /data/pg
              exec postgres -D /data/pg -c listen_addresses= -c unix_socket_directories=/run/pg -c shared_buffers=32MB -c max_connections=20
          readinessProbe: {exec: {command: [pg_isready, -h, /run/pg]}, timeoutSeconds: 20, periodSeconds: 20}
          volumeMounts: [{name: data, mountPath: /data}, {name: socket, mountPath: /run/pg}]
        - name: load
          image: %s
          imagePullPolicy: Never
          command: [sh, -ec]
          args:
            - |
              until pg_isready -q -h /run/pg; do sleep 1; done
              pgbench -h /run/pg -U postgres -i -s 2 -q postgres
              pgbench -h /run/pg -U postgres -c 4 -j 1 -T %d -P 5 postgres 2>&1
              echo load is over
              sleep 86400
          volumeMounts: [{name: socket, mountPath: /run/pg}]
      volumes: [{name: socket, emptyDir: {medium: Memory}}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        storageClassName: holdfast
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 1Gi}}
`
