// Package cli is what the commands of this module have in common: how they begin and end, and what flags of the same
// name mean. It has no command's own flags.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Command is a command with options of the type O.
type Command[O any] struct {
	Name, Help string
	Parse      func(ctx context.Context, args []string) (O, error) // flag.ErrHelp if help is asked for
	Run        func(ctx context.Context, o O, log io.Writer) error
}

// Main returns the exit status: 2 for a mistake in the flags, 1 for any other failure.
func (c Command[O]) Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := c.Parse(ctx, args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(os.Stdout, c.Help)
		return 0
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v (--help says more)\n", c.Name, err)
		return 2
	}
	err = c.Run(ctx, o, os.Stderr)
	if ctx.Err() != nil {
		err = errors.Join(errors.New("interrupted"), err)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", c.Name, err)
		return 1
	}
	return 0
}
