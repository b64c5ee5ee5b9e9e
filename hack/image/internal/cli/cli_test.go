package cli

import (
	"context"
	"errors"
	"flag"
	"io"
	"testing"
)

func TestCommand(t *testing.T) {
	for name, c := range map[string]struct {
		parse, run error
		want       int
		runs       bool
	}{
		"well":    {runs: true},
		"help":    {parse: flag.ErrHelp},
		"mistake": {parse: errors.New("no such flag"), want: 2},
		"failure": {run: errors.New("no network"), want: 1, runs: true},
	} {
		ran := false
		command := Command[string]{
			Name:  "test",
			Parse: func(_ context.Context, args []string) (string, error) { return args[0], c.parse },
			Run: func(_ context.Context, o string, _ io.Writer) error {
				ran = o == "--flag"
				return c.run
			},
		}
		if got := command.Main([]string{"--flag"}); got != c.want || ran != c.runs {
			t.Errorf("%s: status %d, want %d, ran %t", name, got, c.want, ran)
		}
	}
}
