//go:build linux && k8s

package kube_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

// goesOnWithin is how long after an outage writes may still wait. The kernel's own
// bounds are measured elsewhere (test/e2e); here the machines have a cluster to run.
const goesOnWithin = 30 * time.Second

// One outage of each kind: pods wait, see no error, are not restarted, and lose
// nothing. Their claims say what happened.
func outages(t *testing.T) {
	b := newBench(t)
	fs, block := claim{name: "fs"}, claim{name: "block", block: true}
	b.claim(fs)
	b.claim(block)
	ws := []*writer{b.write(fs, "node1"), b.write(block, "node1")}
	box := cluster.Storages[0]
	for _, o := range []struct {
		name         string
		lasts        time.Duration
		inject, heal func() error
	}{
		{"storage host refuses", 20 * time.Second, func() error { return box.Refuse(b.ctx, 4420) }, func() error { return box.Unrefuse(b.ctx, 4420) }},
		{"cable of the storage host pulled", 25 * time.Second, box.NIC(0).Unplug, box.NIC(0).Heal},
		{"power of the storage host cut", 10 * time.Second, box.PowerCut, func() error { return box.PowerOn(b.ctx) }},
		{"agent killed", time.Second, func() error { return box.KillAgent(b.ctx) }, none},
		{"kubelet killed and started", 5 * time.Second, func() error { return cluster.Nodes[0].KillKubelet(b.ctx) }, func() error { return b.startKubelet(ws) }},
		{"node plugin deleted during an outage", 20 * time.Second, func() error {
			if err := box.Refuse(b.ctx, 4420); err != nil {
				return err
			}
			return b.deletePlugin("node1")
		}, func() error { return box.Unrefuse(b.ctx, 4420) }},
	} {
		b.must(o.inject())
		time.Sleep(o.lasts)
		b.must(o.heal())
		healed := time.Now()
		for _, w := range ws {
			b.Logf("%s: %s went on %.1f s after healing", o.name, w.pod, w.goesOn(healed, goesOnWithin).Seconds())
			w.neverFailed()
		}
	}
	b.events("pvc/fs", "VolumeWaiting", "VolumeResumed")
	b.events("node/node1", "StorageDisconnected", "StorageReconnected")
	for _, w := range ws {
		w.stop()
		w.verify("node2")
	}
	b.clean()
}

func (b *bench) startKubelet(ws []*writer) error {
	if err := cluster.Nodes[0].StartKubelet(b.ctx); err != nil {
		return err
	}
	for _, w := range ws {
		b.must(kube.WaitFor(b.ctx, time.Minute, "the kubelet answers", func(ctx context.Context) (bool, error) {
			_, err := cluster.Kubectl(ctx, "-n", b.ns, "logs", "--tail=1", w.pod)
			return err == nil, err
		}))
		w.follow("--tail=0")
	}
	return nil
}

func none() error { return nil }

// deletePlugin has the plugin's pod on a node made anew, and waits for it.
func (b *bench) deletePlugin(node string) error {
	if _, err := cluster.Kubectl(b.ctx, "-n", kube.Namespace, "delete", "pod", "-l", "app.kubernetes.io/component=node", "--field-selector", "spec.nodeName="+node); err != nil {
		return err
	}
	return cluster.Ready(b.ctx)
}

// events waits until an object (kind/name) has had events for all the reasons.
func (b *bench) events(object string, reasons ...string) {
	b.Helper()
	kind, name, _ := strings.Cut(object, "/")
	kinds := map[string]string{"pvc": "PersistentVolumeClaim", "node": "Node"}
	b.must(kube.WaitFor(b.ctx, time.Minute, "events of "+object, func(ctx context.Context) (bool, error) {
		out, err := cluster.Kubectl(ctx, "get", "events", "-A", "--field-selector", "involvedObject.kind="+kinds[kind]+",involvedObject.name="+name,
			"-o", `jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}`)
		if err != nil {
			return false, err
		}
		for _, r := range reasons {
			if !strings.Contains(out, r+": ") {
				return false, fmt.Errorf("no %s among:\n%s", r, out)
			}
		}
		return true, nil
	}))
}
