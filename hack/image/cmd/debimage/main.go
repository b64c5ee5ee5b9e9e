// Command debimage makes a container image of Debian's programs for tests: an archive for docker load and ctr images
// import, for the architecture of this machine, without a daemon and without being root.
//
// It takes the programs that it is told to take, and what these need. It pushes nothing, and no image of it is for
// production: nobody watches the packages in it.
package main

import (
	"context"
	"os"

	"github.com/holdfast-csi/holdfast/hack/image/internal/cli"
)

func main() {
	os.Exit(cli.Command[*options]{
		Name: "debimage",
		Help: help,
		Parse: func(_ context.Context, args []string) (*options, error) {
			return parseOptions(args, os.LookupEnv)
		},
		Run: build,
	}.Main(os.Args[1:]))
}
