package registration

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// kubelet does what the kubelet's plugin watcher does with a socket.
type kubelet struct {
	t   *testing.T
	dir string
}

// find returns the one socket in the directory, once there is one other than last.
func (k kubelet) find(last os.FileInfo) (string, os.FileInfo) {
	k.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		list, err := os.ReadDir(k.dir)
		if err != nil || len(list) != 1 {
			continue
		}
		info, err := list[0].Info()
		if err == nil && info.Mode()&fs.ModeSocket != 0 && (last == nil || !same(info, last)) {
			return filepath.Join(k.dir, list[0].Name()), info
		}
	}
	k.t.Fatal("no new socket")
	return "", nil
}

func (k kubelet) on(socket string, do func(registerapi.RegistrationClient) error) {
	k.t.Helper()
	// Like the kubelet it tries again: a socket is there a moment before it listens.
	c, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err == nil {
		err = errors.Join(do(registerapi.NewRegistrationClient(c)), c.Close())
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k kubelet) answer(socket, problem string) {
	k.t.Helper()
	k.on(socket, func(c registerapi.RegistrationClient) error {
		_, err := c.NotifyRegistrationStatus(k.t.Context(), &registerapi.RegistrationStatus{PluginRegistered: problem == "", Error: problem})
		return err
	})
}

func started(t *testing.T) (*Registration, kubelet, context.CancelFunc) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "r")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r := New(Options{Dir: dir, Driver: "csi.example.com", Endpoint: "/kubelet/csi.sock", Log: slog.New(slog.DiscardHandler), Every: 5 * time.Millisecond, Pause: 5 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return r, kubelet{t, dir}, cancel
}

func TestProtocol(t *testing.T) {
	t.Parallel()
	r, k, stop := started(t)
	socket, first := k.find(nil)
	if socket != r.Socket() || filepath.Base(socket) != "csi.example.com-reg.sock" {
		t.Errorf("socket %s", socket)
	}
	k.on(socket, func(c registerapi.RegistrationClient) error {
		info, err := c.GetInfo(t.Context(), &registerapi.InfoRequest{})
		got := []any{info.GetType(), info.GetName(), info.GetEndpoint(), info.GetSupportedVersions()}
		if diff := cmp.Diff([]any{"CSIPlugin", "csi.example.com", "/kubelet/csi.sock", []string{"1.0.0"}}, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		return err
	})
	k.answer(socket, "")
	time.Sleep(50 * time.Millisecond)
	if _, now := k.find(nil); !same(first, now) {
		t.Error("the socket of a driver that is registered was made anew")
	}
	stop()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Lstat(socket); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the socket outlives the driver")
		}
	}
}

// The kubelet looks at a socket when it appears, and never again.
func TestOfferedAgain(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(k kubelet, socket string){
		"refused": func(k kubelet, socket string) { k.answer(socket, "NodeGetInfo: not yet") },
		"removed": func(k kubelet, socket string) { _ = os.Remove(socket) },
		"all cleared": func(k kubelet, _ string) {
			_ = os.RemoveAll(k.dir)
			time.Sleep(20 * time.Millisecond)
			_ = os.Mkdir(k.dir, 0o700)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, k, _ := started(t)
			socket, last := k.find(nil)
			for range 3 {
				lose(k, socket)
				socket, last = k.find(last)
			}
			k.answer(socket, "")
		})
	}
}

func TestNoDirectory(t *testing.T) {
	t.Parallel()
	r := New(Options{Dir: filepath.Join(t.TempDir(), "none"), Driver: "csi.example.com", Log: slog.New(slog.DiscardHandler)})
	if err := r.Run(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
