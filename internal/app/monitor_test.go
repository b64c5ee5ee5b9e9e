package app

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-csi/holdfast/internal/metrics"
	"github.com/holdfast-csi/holdfast/pkg/driver"
)

// get asks until the port is open.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil && time.Now().Before(end) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
}

func freePort(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Healthy is who answers on the CSI socket, and not who has only opened it.
func TestHealthz(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	endpoint := "unix://" + t.TempDir() + "/csi.sock"
	csiSocket, err := listenUnix(ctx, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	address := port.Addr().String()
	calls, counted := metrics.NewCalls()
	// The port is another's at first: that is no reason not to serve volumes.
	if err := (monitor{address, endpoint, []prometheus.Collector{counted}, slog.New(slog.DiscardHandler)}).serve(ctx); err != nil {
		t.Fatal(err)
	}
	if err := port.Close(); err != nil {
		t.Fatal(err)
	}
	if code, body := get(t, "http://"+address+"/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "CSI is not served") {
		t.Errorf("before CSI is served: %d %s", code, body)
	}
	s := newCSIServer(slog.New(slog.DiscardHandler), calls)
	csi.RegisterIdentityServer(s, &driver.Identity{})
	ended := make(chan error)
	go func() { ended <- serve(ctx, s, csiSocket) }()
	if code, body := get(t, "http://"+address+"/healthz"); code != http.StatusOK {
		t.Errorf("served: %d %s", code, body)
	}
	if _, body := get(t, "http://"+address+"/metrics"); !strings.Contains(body, `holdfast_csi_call_seconds_count{code="OK",method="Probe"} 1`) {
		t.Errorf("the call is not counted:\n%s", body)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestMetricsAddress(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"nowhere", "127.0.0.1:99999", "192.0.2.1:9"} {
		err := (monitor{address: address, endpoint: "unix:///csi.sock"}).serve(t.Context())
		if err == nil || !strings.Contains(err.Error(), "metrics-address") || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: %v", address, err)
		}
	}
}
