// Command fakehost is a storage host without a kernel's target: the agent with its
// records, pools and mutual TLS, as `holdfast target` runs it, on a model of the
// target and of the gate. What it has, it tells on a socket as JSON (scale.State). A
// restart is a restart of the machine: the model forgets everything.
//
//	fakehost -config target.yaml -state state.sock
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/internal/agent"
	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/gate/gatetest"
	"github.com/holdfast-csi/holdfast/internal/nvmet/nvmettest"
	"github.com/holdfast-csi/holdfast/internal/pki"
	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/pool/file"
	"github.com/holdfast-csi/holdfast/internal/store"
)

func main() {
	path := flag.String("config", "", "configuration as `holdfast target init` makes it")
	socket := flag.String("state", "", "socket on which the state is told")
	flag.Parse()
	if err := run(*path, *socket); err != nil {
		fmt.Fprintln(os.Stderr, "fakehost:", err)
		os.Exit(1)
	}
}

func run(path, socket string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	cfg, err := config.LoadTarget(path)
	if err != nil {
		return err
	}
	tls, err := pki.ServerTLS(cfg.TLS.CA, cfg.TLS.Cert, cfg.TLS.Key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return err
	}
	db, err := store.Open(filepath.Join(cfg.StateDir, "state.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("component", "target", "host", cfg.Host)
	h := &host{cfg: cfg, db: db, kernel: nvmettest.New()}
	h.kernel.DeviceExists = func(path string) bool { _, err := os.Stat(path); return err == nil }
	service := agent.New(h.options(log))
	go service.Run(ctx)
	go h.forgetEvents(ctx)
	if err := serveState(ctx, socket, h); err != nil {
		return err
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return err
	}
	s := agent.NewServer(service, tls, log)
	context.AfterFunc(ctx, s.Stop)
	return s.Serve(l)
}

func (h *host) options(log *slog.Logger) agent.Options {
	o := agent.Options{Host: h.cfg.Host, Version: "test", DB: h.db, Tree: h.kernel, Gate: gatetest.NewFake(), Log: log}
	for _, p := range h.cfg.Pools {
		o.Pools = append(o.Pools, agent.PoolOptions{Name: p.Name, Portal: p.Portal(), Open: func() (pool.Pool, error) {
			return file.Open(file.Options{Name: p.Name, Dir: p.Path, Installation: h.db.Installation().ID, ReserveBytes: p.ReserveBytes})
		}})
	}
	return o
}

// forgetEvents keeps the model's memory of what was done to it from growing for ever,
// and from being taken for the agent's.
func (h *host) forgetEvents(ctx context.Context) {
	for t := time.NewTicker(time.Second); ctx.Err() == nil; <-t.C {
		h.kernel.ClearEvents()
	}
}

func serveState(ctx context.Context, socket string, h *host) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	s := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		state, err := h.state()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(state) // who asked may be gone
	})}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	go func() { _ = s.Serve(l) }() // ends with Close
	return nil
}
