// Command holdfast is the whole product: its first argument says which role it
// plays.
package main

import (
	"os"

	"github.com/holdfast-csi/holdfast/internal/app"
)

func main() { os.Exit(app.Main(os.Args[1:])) }
