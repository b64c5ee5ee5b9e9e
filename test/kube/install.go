//go:build linux

package kube

import (
	"context"
	"os"
	"path/filepath"
)

// Namespace is where Holdfast is installed, under the release name holdfast.
const Namespace = "holdfast"

// Upgrade changes values of the installed chart, as `helm upgrade --set` does, and
// returns when every part is ready.
func (c *Cluster) Upgrade(ctx context.Context, set ...string) error {
	var values []string
	for _, s := range set {
		values = append(values, "--set", s)
	}
	return c.upgrade(ctx, values...)
}

// UpgradeValues is Upgrade with a file of values.
func (c *Cluster) UpgradeValues(ctx context.Context, values string) error {
	path := filepath.Join(c.dir, "values.yaml")
	if err := os.WriteFile(path, []byte(values), 0o600); err != nil {
		return err
	}
	return c.upgrade(ctx, "-f", path)
}

func (c *Cluster) upgrade(ctx context.Context, values ...string) error {
	args := []string{"upgrade", "holdfast", filepath.Join(root(), "deploy", "chart", "holdfast"), "-n", Namespace, "--reset-then-reuse-values"}
	if _, err := c.Helm(ctx, append(args, values...)...); err != nil {
		return err
	}
	return c.Ready(ctx)
}

// Ready waits until every part of Holdfast is.
func (c *Cluster) Ready(ctx context.Context) error {
	for _, what := range []string{"daemonset/holdfast-node", "deployment/holdfast-controller"} {
		if _, err := c.Kubectl(ctx, "-n", Namespace, "rollout", "status", what, "--timeout=300s"); err != nil {
			return err
		}
	}
	return nil
}
