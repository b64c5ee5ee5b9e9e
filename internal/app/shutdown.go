package app

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/shutdown"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const defaultBus = "unix:///run/dbus/system_bus_socket"

func addBusFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "dbus-socket", defaultBus, "the host's system bus, on which logind says that the machine is about to shut down: then volumes are synced, and what is unreachable is not waited for; empty for none")
}

// finishTime bounds what is done for the volumes when this process ends with the
// machine.
const finishTime = 10 * time.Second

// goingDown joins what logind says with what is done about it. That the process is
// told to end says nothing by itself: it may be an upgrade.
type goingDown struct {
	flow     *node.Node
	underWay atomic.Bool
}

var _ shutdown.Handler = (*goingDown)(nil)

// Begin implements shutdown.Handler.
func (g *goingDown) Begin(ctx context.Context) {
	g.underWay.Store(true)
	g.flow.PrepareShutdown(ctx)
}

// Cancel implements shutdown.Handler.
func (g *goingDown) Cancel() {
	g.underWay.Store(false)
	g.flow.CancelShutdown()
}

// finish is called when nothing is served any more.
func (g *goingDown) finish(ctx context.Context) {
	if !g.underWay.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTime)
	defer cancel()
	g.flow.FinishShutdown(ctx)
}

// awaitShutdown listens for shutdowns until ctx ends; address "" is none.
func awaitShutdown(ctx context.Context, address string, flow *node.Node, log *slog.Logger) (*goingDown, error) {
	g := &goingDown{flow: flow}
	if address == "" {
		return g, nil
	}
	socket, ok := strings.CutPrefix(address, "unix://")
	if !ok || !filepath.IsAbs(socket) {
		return nil, fmt.Errorf("dbus-socket: value %q: want unix:///absolute/path: %w", address, volume.ErrInvalid)
	}
	l := shutdown.New(shutdown.Options{Socket: socket, Handler: g, Log: log.With("component", "shutdown")})
	go l.Run(ctx)
	return g, nil
}
