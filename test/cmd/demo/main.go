// Command demo shows the main job of Holdfast on a real kernel: it boots a
// storage host and a node, provisions volumes, writes to them, takes the
// storage host away in several ways, and checks every acknowledged byte.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// demoTime bounds the whole run; a healthy one takes about three minutes.
const demoTime = 9 * time.Minute

func main() { os.Exit(status()) }

func status() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, demoTime)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		return 1
	}
	return 0
}

func run(ctx context.Context) (err error) {
	s := newScreen(os.Stdout)
	s.title()
	s.step("building and booting a storage host and a node …")
	kernel := os.Getenv("HOLDFAST_KERNEL")
	c, err := cluster.Start(ctx, cluster.Config{Name: "demo", Kernel: kernel, Volatile: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	d := &demo{c: c, screen: s, began: time.Now()}
	if err := d.play(ctx); err != nil {
		return fmt.Errorf("%w\n\nnode plugin:\n%s\nstorage agent:\n%s", err, c.Nodes[0].PluginLog(ctx), c.Storages[0].Log(ctx))
	}
	path := filepath.Join(cluster.Root(), "build", "demo", "report.json")
	if err := d.report.Write(path); err != nil {
		return err
	}
	s.summary(&d.report, path)
	if !d.report.Passed {
		return fmt.Errorf("the promise was not kept, see %s", path)
	}
	return nil
}
