//go:build vm

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

func TestFirstLight(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, cluster.Config{Name: "first", Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n := c.Nodes[0]
	for _, v := range []*cluster.Volume{{Name: "fs", FSType: "ext4", SizeBytes: 256 << 20}, {Name: "x", FSType: "xfs", SizeBytes: 512 << 20}, {Name: "blk", SizeBytes: 64 << 20}} {
		began := time.Now()
		if err := c.Use(ctx, v, n); err != nil {
			t.Fatal(err, "\nNODE\n", n.PluginLog(ctx), "\nAGENT\n", c.Storages[0].Log(ctx))
		}
		t.Log("use took", time.Since(began))
		out, err := n.Shell(ctx, "findmnt -rn | grep kubelet; ls -la "+v.Target())
		t.Log(out, err)
		began = time.Now()
		if err := c.Drop(ctx, v, n); err != nil {
			t.Fatal(err, "\nNODE\n", n.PluginLog(ctx), "\nAGENT\n", c.Storages[0].Log(ctx))
		}
		t.Log("drop took", time.Since(began))
		if err := c.Delete(ctx, v); err != nil {
			t.Fatal(err)
		}
	}
	t.Log(n.PluginLog(ctx), c.Storages[0].Log(ctx))
}
