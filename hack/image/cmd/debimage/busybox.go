package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/hack/image/internal/command"
	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

const (
	busyboxPackage = "busybox-static"
	busyboxPath    = "/bin/busybox"
)

// addApplets links to busybox under each name that it answers to, and that no program in /bin has. It says them when
// it is run, for which it is put into dir.
func addApplets(ctx context.Context, run command.Runner, dir string, tree *rootfs.Tree) error {
	end, _, err := tree.Resolve(busyboxPath)
	if err != nil {
		return err
	}
	file, _ := tree.Get(end)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	program := filepath.Join(dir, path.Base(busyboxPath))
	if err := os.WriteFile(program, file.Data, 0o755); err != nil {
		return err
	}
	out, err := run(ctx, "", program, "--list")
	if err != nil {
		return fmt.Errorf("ask busybox what it can be: %w", err)
	}
	for _, applet := range strings.Fields(string(out)) {
		name := path.Join(path.Dir(busyboxPath), applet)
		if path.Base(name) != applet {
			return fmt.Errorf("busybox --list says %q: want names of programs", applet)
		}
		if _, taken := tree.Get(name); taken {
			continue
		}
		if err := tree.Link(path.Base(busyboxPath), name); err != nil {
			return err
		}
	}
	return nil
}
