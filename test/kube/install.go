//go:build linux

package kube

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Namespace is where Holdfast is installed, under the release name holdfast.
const Namespace = "holdfast"

// Install installs Holdfast with its own chart, and returns when it is ready on all
// nodes. The values are those that it needs, and more as lines of YAML.
func (c *Cluster) Install(ctx context.Context, more string) error {
	if err := c.secrets(ctx); err != nil {
		return err
	}
	return c.Upgrade(ctx, more)
}

// Upgrade is Install on an installation.
func (c *Cluster) Upgrade(ctx context.Context, more string) error {
	values := filepath.Join(c.dir, "values.yaml")
	if err := os.WriteFile(values, []byte(c.values()+more), 0o600); err != nil {
		return err
	}
	if _, err := c.Helm(ctx, "upgrade", "--install", "holdfast", filepath.Join(root(), "deploy", "chart", "holdfast"), "-n", Namespace, "-f", values); err != nil {
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

func (c *Cluster) values() string {
	var b strings.Builder
	fmt.Fprintf(&b, "clusterID: %s\nimage: {tag: %s}\nhosts:\n", ClusterID, HoldfastTag)
	for _, s := range c.Storages {
		fmt.Fprintf(&b, "  - {name: %s, address: %q}\n", s.Name(), s.Address())
	}
	b.WriteString(`storageClasses:
  - {name: holdfast}
  - {name: holdfast-xfs, parameters: {csi.storage.k8s.io/fstype: xfs}}
`)
	return b.String()
}

// secrets makes the namespace and puts the certificates of the first storage host
// there.
func (c *Cluster) secrets(ctx context.Context) error {
	if _, err := c.Kubectl(ctx, "create", "namespace", Namespace); err != nil {
		return err
	}
	for _, role := range []string{"controller", "node"} {
		args := []string{"-n", Namespace, "create", "secret", "generic", "holdfast-" + role + "-tls"}
		for key, file := range map[string]string{"ca.crt": "ca.crt", "tls.crt": role + ".crt", "tls.key": role + ".key"} {
			b, err := c.Storages[0].Get(ctx, "/data/holdfast/tls/"+file)
			if err != nil {
				return err
			}
			path := filepath.Join(c.dir, file)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				return err
			}
			args = append(args, "--from-file="+key+"="+path)
		}
		if _, err := c.Kubectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}
