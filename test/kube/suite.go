//go:build linux

package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Suite is a run of the Kubernetes project's own tests of external storage drivers
// (e2e.test, External.Storage).
type Suite struct {
	Focus, Skip string    // regular expressions over the names of specs
	Timeout     string    // of the whole, "1h"
	Output      io.Writer // what the tests print
	Report      string    // path for JUnit XML; "" for none
	Zones       bool      // each node and each storage host has a zone of its own
}

// PrepareSuite builds the tests and gives the nodes the images that they use.
func (c *Cluster) PrepareSuite(ctx context.Context) error {
	if err := c.buildSuite(ctx); err != nil {
		return err
	}
	archives, err := c.suiteImages(ctx)
	if err != nil {
		return err
	}
	return c.load(ctx, archives...)
}

func (c *Cluster) buildSuite(ctx context.Context) error {
	built, err := build(ctx, suiteParts, c.log)
	maps.Copy(c.bin, built)
	return err
}

// load gives images to all nodes.
func (c *Cluster) load(ctx context.Context, archives ...string) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range c.Nodes {
		g.Go(func() error { return n.load(ctx, archives...) })
	}
	return g.Wait()
}

// suiteImages makes stand-ins for the images that specs of storage run: a shell and
// the project's own test program.
func (c *Cluster) suiteImages(ctx context.Context) ([]string, error) {
	out, err := c.Command(ctx, "e2e.test", "--list-images").Output()
	if err != nil {
		return nil, fmt.Errorf("e2e.test --list-images: %w", err)
	}
	shell, links, err := busybox(ctx)
	if err != nil {
		return nil, err
	}
	var archives []string
	for name := range strings.FieldsSeq(string(out)) {
		i := image{name: name, entry: "/bin/sh", files: map[string]string{"/bin/busybox": shell}, links: links}
		switch {
		case slices.ContainsFunc([]string{"/busybox:", "/nginx:", "/glibc-dns-testing:"}, func(s string) bool { return strings.Contains(name, s) }):
			// Specs of storage use their shell and dd.
		case strings.Contains(name, "/agnhost:"):
			i.entry, i.files["/agnhost"] = "/agnhost", c.bin["agnhost"]
		default:
			continue
		}
		to := filepath.Join(c.dir, "suite-"+filepath.Base(name)+".tar")
		if err := i.write(to); err != nil {
			return nil, err
		}
		archives = append(archives, to)
	}
	if len(archives) == 0 {
		return nil, errors.New("e2e.test lists no image that is known here")
	}
	return archives, nil
}

// RunSuite runs the specs.
func (c *Cluster) RunSuite(ctx context.Context, s Suite) error {
	driver, err := c.suiteDriver(s.Zones)
	if err != nil {
		return err
	}
	args := []string{
		"-kubeconfig=" + c.control.admin, "-provider=local", "-storage.testdriver=" + driver,
		"-ginkgo.focus=" + s.Focus, "-ginkgo.skip=" + s.Skip, "-ginkgo.timeout=" + s.Timeout, "-ginkgo.no-color", "-disable-log-dump",
		// One that does not start under emulation has failed; the default of ten
		// minutes hides it.
		"-node-schedulable-timeout=2m", "-system-pods-startup-timeout=2m",
	}
	if s.Report != "" {
		args = append(args, "-ginkgo.junit-report="+s.Report)
	}
	cmd := c.Command(ctx, "e2e.test", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, s.Output, s.Output
	return cmd.Run()
}

// suiteDriver is the file that says what Holdfast can do; with zones that is more.
func (c *Cluster) suiteDriver(zones bool) (string, error) {
	plain := filepath.Join(root(), "test/kube/testdata/driver.yaml")
	if !zones {
		return plain, nil
	}
	text, err := os.ReadFile(plain)
	if err != nil {
		return "", err
	}
	zoned := strings.NewReplacer("topology: false", "topology: true", "capacity: false", "capacity: true",
		"  Capabilities:", "  TopologyKeys: [topology.kubernetes.io/zone]\n  NumAllowedTopologies: 1\n  Capabilities:").Replace(string(text))
	path := filepath.Join(c.dir, "driver-zones.yaml")
	return path, os.WriteFile(path, []byte(zoned), 0o600)
}

// Program is a program of the suites, built.
func (c *Cluster) Program(ctx context.Context, name string) (string, error) {
	if err := c.buildSuite(ctx); err != nil {
		return "", err
	}
	if c.bin[name] == "" {
		return "", fmt.Errorf("no such program: %s", name)
	}
	return c.bin[name], nil
}
