//go:build linux && k8s

package kube_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

var patience = flag.Duration("patience", 0, "how long a node may be silent before it is not ready; Kubernetes' own 50s if 0")

// cluster is one for all tests: to make it takes minutes.
var cluster *kube.Cluster

func TestMain(m *testing.M) { os.Exit(withCluster(m)) }

func withCluster(m *testing.M) int {
	ctx := context.Background()
	flag.Parse()
	c, err := kube.Start(ctx, kube.Config{Storages: 2, Patience: *patience, Log: func(format string, args ...any) { fmt.Printf(format+"\n", args...) }})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cluster = c
	defer func() {
		if err := c.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	return m.Run()
}

// TestCluster is the life of an installation, in its order.
func TestCluster(t *testing.T) {
	for _, part := range []struct {
		name string
		test func(*testing.T)
	}{
		{"install", install}, {"volumes", volumes}, {"ten", ten}, {"by-hand", byHand}, {"outages", outages}, {"give-up", giveUp}, {"not-formatted", notFormatted}, {"node-death", nodeDeath}, {"cut-off", cutOff}, {"drain", drain},
		{"csi-sanity", sanity}, {"external-storage", externalStorage},
		{"several-hosts", severalHosts}, // after those that know where their volume is
		{"retire", retireHost},
		{"storage-node", storageNode},
		{"uninstall", uninstall},
	} {
		t.Run(part.name, part.test)
	}
}

var installing sync.Once

// install follows the README's section Install to the letter, which ends with a pod
// that has written to a claim. All other tests use what it installed.
func install(t *testing.T) {
	installing.Do(func() {
		ctx := t.Context()
		if err := cluster.FollowReadme(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := cluster.Kubectl(ctx, "delete", "pod/first", "pvc/first", "--timeout=120s"); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Upgrade(ctx, "storageClasses[0].name=holdfast", "storageClasses[1].name=holdfast-xfs",
			`storageClasses[1].parameters.csi\.storage\.k8s\.io/fstype=xfs`); err != nil {
			t.Fatal(err)
		}
	})
}

// uninstall takes everything away, as the documentation says. What a claim that is
// still there holds stays on the storage host.
func uninstall(t *testing.T) {
	b := newBench(t)
	kept := claim{name: "kept"}
	b.claim(kept)
	b.pod("writer", kept, "", "echo precious >/data/file; sync; exec sleep 3600")
	b.ready("writer")
	b.drop("writer")
	if _, err := cluster.Helm(b.ctx, "uninstall", "holdfast", "-n", kube.Namespace, "--wait", "--timeout=3m"); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Kubectl(b.ctx, "delete", "namespace", kube.Namespace, "--timeout=120s"); err != nil {
		t.Fatal(err)
	}
	out, err := cluster.Kubectl(b.ctx, "get", "csidriver,storageclass,clusterrole,clusterrolebinding,priorityclass", "-o", "name")
	b.must(err)
	if strings.Contains(out, "holdfast") {
		t.Errorf("left in the API:\n%s", out)
	}
	for _, n := range cluster.Nodes {
		b.hasNothing(n)
		left, err := n.Shell(b.ctx, "ls /var/lib/kubelet/plugins /var/lib/kubelet/plugins_registry | grep holdfast || true")
		b.must(err)
		if left != "" {
			t.Errorf("left on %s: %s", n.Name(), left)
		}
	}
	b.must(kube.WaitFor(b.ctx, time.Minute, "the volume's file is there", func(ctx context.Context) (bool, error) {
		var on string
		for _, s := range cluster.Storages {
			out, err := s.Shell(ctx, "grep -l precious /srv/fast/volumes/*.img 2>/dev/null || true")
			if err != nil {
				return false, err
			}
			on += out
		}
		return strings.Contains(on, ".img"), nil
	}))
}
