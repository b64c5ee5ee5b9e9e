// Command kubeshell makes a Kubernetes of virtual machines with Holdfast in it, to
// try things by hand, and takes it away again when it is interrupted.
//
//	go run ./test/cmd/kubeshell [-nodes 2] [-storages 1] [-build-only]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/holdfast-csi/holdfast/test/kube"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "kubeshell:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	nodes := flag.Int("nodes", 2, "number of nodes")
	storages := flag.Int("storages", 1, "number of storage hosts")
	series := flag.String("kernel", "6.12", "series of the kernel")
	only := flag.Bool("build-only", false, "build the programs that are not in the cache, and end")
	flag.Parse()
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	if *only {
		return kube.Build(ctx, say)
	}
	c, err := kube.Start(ctx, kube.Config{Name: "kubeshell", Kernel: *series, Nodes: *nodes, Storages: *storages, Log: say})
	if err != nil {
		return err
	}
	defer func() {
		if err := c.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	installed := "Holdfast is there."
	if err := c.FollowReadme(ctx); err != nil {
		installed = err.Error() + "\n" + c.Storages[0].AgentLog(ctx) // which is to be looked at
	}
	say("\n%s\n\nIn another terminal:\n\n  %s\n\nInterrupt to take everything away.", installed, c.Hint())
	<-ctx.Done()
	return nil
}
