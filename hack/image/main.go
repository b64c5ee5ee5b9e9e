// Command image builds Holdfast's container image for several architectures, without a daemon and without being root.
//
// It compiles Holdfast, takes the programs that the node plugin executes from Debian packages, and writes both as an
// OCI image layout and as archives for docker load and ctr images import. It runs no container, and signs nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run(os.Args[1:])) }

// run returns the exit status: 2 for a mistake in the flags, 1 for any other failure.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parseOptions(ctx, args, os.LookupEnv)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(os.Stdout, help)
		return 0
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "image: %v (--help says more)\n", err)
		return 2
	}
	err = build(ctx, o, os.Stderr)
	if ctx.Err() != nil {
		err = errors.Join(errors.New("interrupted"), err)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		return 1
	}
	return 0
}
