//go:build linux

package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Kubectl runs kubectl as the cluster's administrator and returns what it printed.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.client(ctx, "", "kubectl", args...)
}

// Apply applies objects that are written in YAML.
func (c *Cluster) Apply(ctx context.Context, yaml string) error {
	_, err := c.client(ctx, yaml, "kubectl", "apply", "-f", "-")
	return err
}

// Helm runs helm as the cluster's administrator.
func (c *Cluster) Helm(ctx context.Context, args ...string) (string, error) {
	return c.client(ctx, "", "helm", args...)
}

func (c *Cluster) client(ctx context.Context, stdin, program string, args ...string) (string, error) {
	cmd := c.Command(ctx, program, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// Command is a program of the cluster, as its administrator and in its network.
func (c *Cluster) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	path := program
	if built, ok := c.bin[program]; ok {
		path = built
	}
	cmd := c.ns.command(ctx, path, args...)
	cmd.Env = append(cmd.Environ(), "KUBECONFIG="+c.control.admin, "HELM_CACHE_HOME="+c.dir+"/helm", "HELM_CONFIG_HOME="+c.dir+"/helm", "HELM_DATA_HOME="+c.dir+"/helm")
	return cmd
}

// Get decodes what `kubectl get ARGS -o json` prints.
func (c *Cluster) Get(ctx context.Context, into any, args ...string) error {
	out, err := c.Kubectl(ctx, append(append([]string{"get"}, args...), "-o", "json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

// WaitFor repeats a question until it is answered with yes or time is up; then it says
// what was asked and the last error.
func WaitFor(ctx context.Context, limit time.Duration, what string, is func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		yes, err := is(ctx)
		if yes {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, limit, orContext(ctx, last))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func orContext(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	return ctx.Err()
}

// Hint is a command line with which a person uses kubectl here.
func (c *Cluster) Hint() string {
	return fmt.Sprintf("KUBECONFIG=%s nsenter --net=/run/netns/%s %s get pods -A", c.control.admin, c.ns.name, c.bin["kubectl"])
}
