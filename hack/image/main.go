// Command image builds Holdfast's container image for several architectures, without a daemon and without being root.
//
// It compiles Holdfast, takes the programs that the node plugin executes from Debian packages, and writes both as an
// OCI image layout and as archives for docker load and ctr images import. It runs no container, and signs nothing.
package main

import (
	"context"
	"os"

	"github.com/holdfast-csi/holdfast/hack/image/internal/cli"
)

func main() {
	os.Exit(cli.Command[*options]{
		Name: "image",
		Help: help,
		Parse: func(ctx context.Context, args []string) (*options, error) {
			return parseOptions(ctx, args, os.LookupEnv)
		},
		Run: build,
	}.Main(os.Args[1:]))
}
