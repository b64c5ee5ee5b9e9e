//go:build linux

// Command guestd is the init program of the harness's virtual machines. It does nothing elsewhere.
package main

import (
	"os"

	"github.com/holdfast-csi/holdfast/test/vm/internal/guest"
)

func main() { guest.Main(os.Args) }
