package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-csi/holdfast/internal/pause"
)

// monitor is what a role offers to Prometheus and to the kubelet's probes.
type monitor struct {
	address  string // "" is none
	endpoint string // where CSI is served, and asked for health
	shown    []prometheus.Collector
	log      *slog.Logger
}

const (
	// probeTimeout bounds one question for health: less than the chart's probes wait.
	probeTimeout = 3 * time.Second
	// portPause is how long a port that another process has is not tried again.
	portPause = 5 * time.Second
)

// serve serves /metrics and /healthz until ctx ends. A port that another process has
// is waited for: volumes do not need it. An error is an address that cannot be.
func (m monitor) serve(ctx context.Context) error {
	if m.address == "" {
		return nil
	}
	h, err := m.handler(ctx)
	if err != nil {
		return err
	}
	l, err := m.listen(ctx)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		m.log.Warn("metrics and health are not served yet: another process has the port", "err", err)
		go m.serveLater(ctx, h)
		return nil
	case err != nil:
		return err
	}
	serveHTTP(ctx, h, l, m.log)
	return nil
}

func (m monitor) listen(ctx context.Context) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", m.address)
	if err != nil {
		return nil, fmt.Errorf("metrics-address: value %q: %w", m.address, err)
	}
	return l, nil
}

func (m monitor) serveLater(ctx context.Context, h *http.Server) {
	for pause.For(ctx, portPause) {
		if l, err := m.listen(ctx); err == nil {
			m.log.Info("metrics and health are served", "address", m.address)
			serveHTTP(ctx, h, l, m.log)
			return
		}
	}
}

func (m monitor) handler(ctx context.Context) (*http.Server, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.shown...)
	conn, err := grpc.NewClient(m.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("csi-endpoint: value %q: %w", m.endpoint, err)
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 2}))
	mux.Handle("GET /healthz", healthz(csi.NewIdentityClient(conn)))
	return &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10}, nil
}

// healthz asks as a CSI client does, over the socket, as the livenessprobe of
// Kubernetes CSI does: what it says is so for the kubelet and the sidecars, too.
func healthz(id csi.IdentityClient) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
		defer cancel()
		resp, err := id.Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
		switch {
		case err != nil:
			http.Error(w, "CSI is not served: "+err.Error(), http.StatusServiceUnavailable)
		case resp.GetReady() != nil && !resp.GetReady().GetValue():
			http.Error(w, "not ready", http.StatusServiceUnavailable)
		default:
			_, _ = fmt.Fprintln(w, "ok") // who asked may be gone
		}
	})
}

func serveHTTP(ctx context.Context, s *http.Server, l net.Listener, log *slog.Logger) {
	context.AfterFunc(ctx, func() { _ = s.Close() })
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("a server stopped", "address", l.Addr().String(), "err", err)
		}
	}()
}
