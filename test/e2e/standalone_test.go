//go:build vm

package e2e

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/vm"
)

// standalone is `holdfast standalone` in the node's machine: all roles in one
// process, seen through its socket.
type standalone struct {
	*bench
	process *vm.Process
	conn    *grpc.ClientConn
}

func (s *standalone) start() {
	s.Helper()
	p, err := s.bench.node.Start(s.ctx, "standalone", "/usr/local/bin/holdfast", "standalone", "--csi-endpoint", "unix:///run/standalone.sock",
		"--state-dir", "/data/standalone", "--pool-dir", "/data/pool", "--node-name", "alone")
	s.must(err)
	s.process = p
	s.conn.ResetConnectBackoff()
	s.within(30*time.Second, "the process answers", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err := csi.NewIdentityClient(s.conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
		return err
	})
}

// TestStandalone runs a volume's life in one machine through one socket, with
// the process killed while the volume is written to.
func TestStandalone(t *testing.T) {
	anyKernel(t)
	b := newBench(t, 3*time.Minute)
	machine := b.node.Machine
	conn, err := grpc.NewClient("passthrough:///standalone", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return machine.Dial(ctx, "unix", "/run/standalone.sock")
		}))
	b.must(err)
	defer conn.Close()
	b.sh("mkdir -p /data/pool")
	s := &standalone{bench: b, conn: conn}
	s.start()
	info, err := csi.NewNodeClient(conn).NodeGetInfo(b.ctx, &csi.NodeGetInfoRequest{})
	b.must(err)

	alone := *b
	alone.c = &cluster.Cluster{CSI: csi.NewControllerClient(conn)}
	alone.node = &cluster.Node{Machine: machine, CSI: csi.NewNodeClient(conn), ID: info.GetNodeId()}
	// The image lies in this machine; nothing else of the storage host is used.
	alone.storage = &cluster.Storage{Machine: machine, Name: "alone"}
	fs, block := alone.volume("ext4", 24), alone.volume("", 8)
	began := time.Now()
	alone.use(fs, block)
	b.Logf("two volumes from nothing to a pod's path: %s", seconds(time.Since(began)))
	ws := []*writer{alone.write(fs), alone.write(block)}
	control, sessions := alone.controls(), alone.sessions()
	killed := time.Now()
	b.must(s.process.Kill(b.ctx))
	s.start()
	b.Logf("process killed and back after %s", seconds(time.Since(killed)))
	time.Sleep(time.Second)
	for _, w := range ws {
		b.Logf("longest stall of %s: %s", kindOf(w.v), w.calm(killed, control))
	}
	if got := alone.sessions(); got != sessions {
		t.Errorf("connections before:\n%s\nafter:\n%s", sessions, got)
	}
	control.stop()
	alone.endOf(ws, fs, block)
	b.must(s.process.Kill(b.ctx))
	if out := b.sh("shopt -s nullglob; cd /sys/kernel/config/nvmet; echo subsystems/* hosts/* /data/pool/volumes/* /data/standalone/node/volumes/*"); out != "" {
		t.Errorf("left behind: %s", out)
	}
	b.sh("rmdir /sys/kernel/config/nvmet/ports/* ; rm -rf /data/pool /data/standalone /run/standalone.sock")
}
