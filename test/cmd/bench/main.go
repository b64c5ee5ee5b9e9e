// Command bench measures what Holdfast costs over the bare sequence that a
// person would type (nvme connect, blkid, mkfs, mount), in one run on one pair
// of machines. Its figures are ratios: the machines may be emulated, and then
// seconds say little.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

const benchTime = 20 * time.Minute

func main() { os.Exit(status()) }

func status() int {
	only := flag.String("only", "", "parts to measure, separated by commas: "+strings.Join(partNames(), ", ")+"; all if empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, benchTime)
	defer cancel()
	if err := run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func run(ctx context.Context, only string) (err error) {
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	csicall, err := cluster.Build(ctx, "test/cmd/csicall")
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Config{Name: "bench", Kernel: os.Getenv("HOLDFAST_KERNEL"), DiskGiB: 24, Tools: []string{"fio"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	b := &bench{c: c}
	if err := b.c.Nodes[0].Put(ctx, csicall, callPath, 0o755); err != nil {
		return err
	}
	if err := b.measure(ctx, chosen); err != nil {
		return fmt.Errorf("%w\n%s", err, c.Nodes[0].PluginLog(ctx))
	}
	b.result.Kernel, b.result.Accel = c.Lab.KernelVersion(), c.Lab.Accel()
	b.print(os.Stdout)
	text, err := json.MarshalIndent(b.result, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(cluster.Root(), "build", "bench", "report.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	fmt.Printf("\n  %s\n", path)
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
