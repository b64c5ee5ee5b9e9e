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

func TestInstall(t *testing.T) {
	if err := cluster.Install(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
}
