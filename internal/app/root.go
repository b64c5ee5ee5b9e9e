package app

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

// Version is set by the linker.
var Version = "dev"

// Main runs the command line and returns the exit status.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		root.PrintErrln("holdfast:", err)
		return 1
	}
	return 0
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "holdfast",
		Short:         "Kubernetes volumes over NVMe/TCP that never let go",
		Version:       Version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetOut(os.Stdout) // cobra prints to standard error otherwise
	root.AddCommand(newControllerCommand(), newNodeCommand(), newTargetCommand(), newStandaloneCommand(), newVolumesCommand(), newAbandonCommand(),
		newRetireCommand(), newAdmitCommand())
	return root
}

// logOptions are the flags of every command that serves.
type logOptions struct {
	json  bool
	debug bool
}

func (o *logOptions) addFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.json, "log-json", false, "log JSON lines instead of text")
	cmd.Flags().BoolVar(&o.debug, "log-debug", false, "log what is of interest to developers too")
}

// logger builds the logger and makes the libraries that use klog speak through it.
func (o *logOptions) logger(component string) *slog.Logger {
	level := slog.LevelInfo
	if o.debug {
		level = slog.LevelDebug
	}
	opts := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(os.Stderr, opts)
	if o.json {
		h = slog.NewJSONHandler(os.Stderr, opts)
	}
	klog.SetLogger(logr.FromSlogHandler(h))
	return slog.New(h).With("component", component)
}
