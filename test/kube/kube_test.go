//go:build linux && k8s

package kube_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/holdfast-csi/holdfast/test/kube"
)

// cluster is one for all tests: to make it takes minutes.
var cluster *kube.Cluster

func TestMain(m *testing.M) { os.Exit(withCluster(m)) }

func withCluster(m *testing.M) int {
	ctx := context.Background()
	c, err := kube.Start(ctx, kube.Config{Log: func(format string, args ...any) { fmt.Printf(format+"\n", args...) }})
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

// The README's section Install, followed to the letter, ends with a pod that writes
// to a claim. All other tests use what it installed.
func TestInstall(t *testing.T) {
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
}
