package registration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/holdfast-csi/holdfast/internal/pause"
)

// csiVersion is what the kubelet wants to hear from a driver of CSI 1.x: it takes
// what has the major version 1 (kubelet, pkg/volume/csi, highestSupportedVersion).
const csiVersion = "1.0.0"

// Options say what is registered.
type Options struct {
	// Dir is the directory that the kubelet watches, plugins_registry under its
	// root, as this process sees it.
	Dir string
	// Driver is the name of the CSI driver.
	Driver string
	// Endpoint is the path of the CSI socket as the kubelet sees it.
	Endpoint string
	Log      *slog.Logger

	// Every is how often the socket is looked for; a second if 0.
	Every time.Duration
	// Pause is how long a registration that was refused is not offered again, the
	// first time; it doubles up to a minute. A second if 0.
	Pause time.Duration
}

const longestPause = time.Minute

// Registration is a driver's, until its context ends.
type Registration struct {
	Options
	registerapi.UnimplementedRegistrationServer
	refused chan struct{}
}

// New returns a registration that nobody serves yet.
func New(o Options) *Registration {
	if o.Every == 0 {
		o.Every = time.Second
	}
	if o.Pause == 0 {
		o.Pause = time.Second
	}
	return &Registration{Options: o, refused: make(chan struct{}, 1)}
}

// Socket is where the kubelet finds the driver.
func (r *Registration) Socket() string { return filepath.Join(r.Dir, r.Driver+"-reg.sock") }

// GetInfo implements the protocol.
func (r *Registration) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.CSIPlugin, Name: r.Driver, Endpoint: r.Endpoint, SupportedVersions: []string{csiVersion}}, nil
}

// NotifyRegistrationStatus implements the protocol.
func (r *Registration) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	if s.GetPluginRegistered() {
		r.Log.Info("the kubelet has registered the driver", "driver", r.Driver, "endpoint", r.Endpoint)
		return &registerapi.RegistrationStatusResponse{}, nil
	}
	r.Log.Error("the kubelet has refused the driver; it is offered again", "driver", r.Driver, "endpoint", r.Endpoint, "err", s.GetError())
	select {
	case r.refused <- struct{}{}:
	default:
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}

// Run serves until ctx ends, and takes the socket away then: the kubelet takes a
// socket that appears for a driver that does, and one that goes for one that went.
// An error is one of the first attempt: the directory is not there, or not ours.
func (r *Registration) Run(ctx context.Context) error {
	l, err := r.listen(ctx)
	if err != nil {
		return err
	}
	go r.keep(ctx, l)
	return nil
}

func (r *Registration) listen(ctx context.Context) (net.Listener, error) {
	path := r.Socket()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("registration with the kubelet: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("registration with the kubelet: %w", err)
	}
	return l, nil
}

// keep serves one socket after the other.
func (r *Registration) keep(ctx context.Context, l net.Listener) {
	for next := r.Pause; l != nil; l = r.listenAgain(ctx) {
		if !r.offer(ctx, l) {
			next = r.Pause
			continue
		}
		pause.For(ctx, next)
		next = min(2*next, longestPause)
	}
}

// listenAgain listens as soon as that works; nil if ctx ends before.
func (r *Registration) listenAgain(ctx context.Context) net.Listener {
	for said := false; ctx.Err() == nil; said = true {
		l, err := r.listen(ctx)
		if err == nil {
			return l
		}
		if !said {
			r.Log.Warn("the driver cannot be offered to the kubelet", "socket", r.Socket(), "err", err)
		}
		pause.For(ctx, r.Every)
	}
	return nil
}

// offer serves l until ctx ends, the kubelet refuses the driver, or the socket is
// no longer there: the kubelet hears of a socket only when it appears.
func (r *Registration) offer(ctx context.Context, l net.Listener) (refused bool) {
	s := grpc.NewServer()
	registerapi.RegisterRegistrationServer(s, r)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := s.Serve(l); err != nil && ctx.Err() == nil {
			r.Log.Debug("the registration socket is no longer served", "err", err)
		}
	}()
	defer func() {
		s.GracefulStop() // the kubelet hears our answer to its no
		<-served         // and the socket is removed before there is another
	}()
	ours, err := os.Lstat(r.Socket())
	if err != nil {
		return false
	}
	look := time.NewTicker(r.Every)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-r.refused:
			return true
		case <-served:
			return false
		case <-look.C:
			if now, err := os.Lstat(r.Socket()); err != nil || !same(ours, now) {
				return false
			}
		}
	}
}

// same also tells a file from one that was made in its place and got its number.
func same(a, b os.FileInfo) bool { return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) }
