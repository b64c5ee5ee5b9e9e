package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"

	"github.com/holdfast-csi/holdfast/internal/registration"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// registerWithKubelet offers the driver to the kubelet until ctx ends. The CSI
// socket is there already, and answers as soon as it is served.
func registerWithKubelet(ctx context.Context, o nodeOptions, socket net.Addr, log *slog.Logger) error {
	if o.kubeletDir == "" {
		if o.kubeletEndpoint != "" {
			return fmt.Errorf("kubelet-endpoint: value %q: it means nothing without kubelet-registration-dir: %w", o.kubeletEndpoint, volume.ErrInvalid)
		}
		return nil
	}
	if o.kubeletEndpoint == "" {
		o.kubeletEndpoint = socket.String()
	}
	for _, f := range []struct{ name, path string }{{"kubelet-registration-dir", o.kubeletDir}, {"kubelet-endpoint", o.kubeletEndpoint}} {
		if !filepath.IsAbs(f.path) {
			return fmt.Errorf("%s: value %q: want an absolute path: %w", f.name, f.path, volume.ErrInvalid)
		}
	}
	return registration.New(registration.Options{Dir: o.kubeletDir, Driver: volume.DriverName, Endpoint: o.kubeletEndpoint, Log: log.With("component", "registration")}).Run(ctx)
}
