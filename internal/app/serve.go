package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/internal/metrics"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// stopTime is how long calls under way may take to end when the process is
// told to stop. What hangs on a dead path does not hold it up.
const stopTime = 5 * time.Second

// serve runs a gRPC server on l until ctx ends.
func serve(ctx context.Context, s *grpc.Server, l net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	ended := make(chan struct{})
	go func() { s.GracefulStop(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(stopTime):
		s.Stop()
	}
	return nil
}

// maxSocketPath is what sockaddr_un holds (unix(7)), without the NUL.
const maxSocketPath = 107

// listenUnix listens on an endpoint as CSI writes them, unix:///path. A socket
// that an earlier process left is replaced; one that somebody serves is not.
func listenUnix(ctx context.Context, endpoint string) (net.Listener, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "unix" || u.Host != "" || !filepath.IsAbs(u.Path) {
		return nil, fmt.Errorf("csi-endpoint: value %q: want unix:///absolute/path: %w", endpoint, volume.ErrInvalid)
	}
	return listenSocket(ctx, "csi-endpoint", u.Path)
}

func listenSocket(ctx context.Context, what, path string) (net.Listener, error) {
	if !filepath.IsAbs(path) || len(path) > maxSocketPath {
		return nil, fmt.Errorf("%s: value %q: want an absolute path of at most %d bytes: %w", what, path, maxSocketPath, volume.ErrInvalid)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("%s: value %q: another process serves it: %w", what, path, volume.ErrPrecondition), c.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return l, nil
}

// newCSIServer returns a gRPC server whose one interceptor makes the codes, logs
// each failed call once and counts all.
func newCSIServer(log *slog.Logger, calls metrics.Calls) *grpc.Server {
	return grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		began := time.Now()
		resp, err := next(ctx, req)
		took, method, code := time.Since(began), filepath.Base(info.FullMethod), rpcerr.Code(err)
		calls.Saw(method, code.String(), took)
		call := log.With("method", method, "took", took.Round(time.Millisecond))
		if v, ok := req.(interface{ GetVolumeId() string }); ok {
			call = call.With("volume", v.GetVolumeId())
		}
		switch {
		case err == nil:
			call.Debug("call")
		case code == codes.Aborted:
			call.Info("call put off", "err", err)
		default:
			call.Warn("call failed", "code", code.String(), "err", err)
		}
		return resp, rpcerr.ToStatus(err)
	}))
}
