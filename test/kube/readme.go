//go:build linux

package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// step is a block of commands in the README, and where a person types it.
type step struct {
	where  string // a storage host, or "workstation"
	script string
}

// installSteps are the fenced blocks of the README's section Install, in their
// order. Each names its place after the language: ```sh workstation.
func installSteps(readme string) ([]step, error) {
	_, section, found := strings.Cut(readme, "\n## Install\n")
	if !found {
		return nil, errors.New("the README has no section Install")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var steps []step
	for _, part := range strings.Split(section, "\n```sh ")[1:] {
		where, rest, _ := strings.Cut(part, "\n")
		script, _, closed := strings.Cut(rest, "\n```")
		if !closed {
			return nil, fmt.Errorf("a block for %s has no end", where)
		}
		steps = append(steps, step{strings.TrimSpace(where), script})
	}
	if len(steps) == 0 {
		return nil, errors.New("the README's section Install has no block that says where it is typed")
	}
	return steps, nil
}

// FollowReadme installs Holdfast as the README says, to the letter. What stands in
// for tools and machines that are not here: apt and systemctl of the storage host
// (standins.sh), scp, and make, whose results the machines have already.
func (c *Cluster) FollowReadme(ctx context.Context) error {
	text, err := os.ReadFile(filepath.Join(root(), "README.md"))
	if err != nil {
		return err
	}
	steps, err := installSteps(string(text))
	if err != nil {
		return err
	}
	desk := filepath.Join(c.dir, "workstation")
	if err := c.furnish(desk); err != nil {
		return err
	}
	for _, s := range steps {
		c.log("README, on %s:\n%s", s.where, indent(s.script))
		out, err := c.follow(ctx, desk, s)
		c.log("%s", indent(out))
		if err != nil {
			return fmt.Errorf("README, on %s: %w", s.where, err)
		}
	}
	return nil
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}

func (c *Cluster) follow(ctx context.Context, desk string, s step) (string, error) {
	for _, host := range c.Storages {
		if host.Name() == s.where {
			return host.Shell(ctx, "cd /root\n"+s.script)
		}
	}
	if s.where != "workstation" {
		return "", errors.New("there is no such machine")
	}
	if err := c.copyKubernetesFiles(ctx, desk); err != nil {
		return "", err
	}
	cmd := c.Command(ctx, "bash", "-euo", "pipefail", "-c", s.script)
	cmd.Dir = desk
	cmd.Env = append(cmd.Env, "PATH="+desk+"/bin:"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// standInFor is a program that does one thing if it is called with the very arguments.
func standInFor(arguments, does string) string {
	return fmt.Sprintf("#!/bin/sh\nif [ \"$*\" != %q ]; then echo \"${0##*/} $*: not here\" >&2; exit 1; fi\n%s\n", arguments, does)
}

// furnish makes the working directory of a person: the source tree, and the tools.
func (c *Cluster) furnish(desk string) error {
	bin := filepath.Join(desk, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	for name, target := range map[string]string{
		"bin/kubectl": c.bin["kubectl"], "bin/helm": c.bin["helm"], "deploy": filepath.Join(root(), "deploy"),
	} {
		if err := os.Symlink(target, filepath.Join(desk, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	for name, text := range map[string]string{
		"scp":  standInFor("-r root@box1:/etc/holdfast/kubernetes .", "cp -r from-box1 kubernetes"),
		"make": standInFor("packages image PUSH="+holdfastImage, ":"),
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o700); err != nil { //nolint:gosec // programs of the test's own
			return err
		}
	}
	return nil
}

// copyKubernetesFiles brings what scp will copy, if it is there already.
func (c *Cluster) copyKubernetesFiles(ctx context.Context, desk string) error {
	dir := filepath.Join(desk, "from-box1")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	list, err := c.Storages[0].Shell(ctx, "ls /etc/holdfast/kubernetes 2>/dev/null || true")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(list) {
		b, err := c.Storages[0].Get(ctx, "/etc/holdfast/kubernetes/"+name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
