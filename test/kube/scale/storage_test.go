//go:build linux && k8s && long

package scale_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
	"github.com/holdfast-csi/holdfast/test/kube/scale"
)

// box is a storage host without a kernel.
type box struct{ name, dir string }

func (b box) socket() string { return filepath.Join(b.dir, "state.sock") }

// values is the file for the chart, which names the boxes that were set up until this
// one.
func (b box) values() string { return filepath.Join(b.dir, "etc", "kubernetes", "values.yaml") }

// setUpBoxes makes storage hosts as docs/how-to/storage-host.md says, each invited by
// the one before.
func (s *trial) setUpBoxes(n int) {
	s.Helper()
	for i := range n {
		b := box{fmt.Sprintf("box%d", i+1), filepath.Join(s.cluster.Dir(), fmt.Sprintf("box%d", i+1))}
		address := fmt.Sprintf("10.0.%d.%d", i/200, 2+i%200)
		s.must(s.cluster.AddAddress(s.ctx, address))
		s.must(os.MkdirAll(filepath.Join(b.dir, "pool"), 0o700))
		args := []string{"target", "init", "--dir", filepath.Join(b.dir, "etc"), "--state-dir", filepath.Join(b.dir, "state"),
			"--host", b.name, "--address", address, "--listen", address + ":9700", "--pool", "fast=" + filepath.Join(b.dir, "pool")}
		if i > 0 {
			invitation := filepath.Join(b.dir, "join.yaml")
			s.holdfast("target", "invite", invitation, "--dir", filepath.Join(s.boxes[i-1].dir, "etc"))
			args = append(args, "--join", invitation)
		}
		s.holdfast(args...)
		s.must(s.cluster.Run(kube.Program{Name: b.name, Path: "fakehost", Args: []string{"-config", filepath.Join(b.dir, "etc", "target.yaml"), "-state", b.socket()}}))
		s.boxes = append(s.boxes, b)
	}
}

func (s *trial) holdfast(args ...string) {
	s.Helper()
	if out, err := s.cluster.Command(s.ctx, "holdfast", args...).CombinedOutput(); err != nil {
		s.Fatalf("holdfast %v: %v\n%s", args, err, out)
	}
}

// stateTime bounds the question for a box's state.
const stateTime = time.Minute

// state asks a box for what it has.
func (s *trial) state(b box) (state scale.State) {
	s.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", b.socket())
	}
	client := http.Client{Timeout: stateTime, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	resp, err := client.Get("http://box/")
	s.must(err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.Fatalf("%s: %s", b.name, resp.Status)
	}
	s.must(json.NewDecoder(resp.Body).Decode(&state))
	return state
}
