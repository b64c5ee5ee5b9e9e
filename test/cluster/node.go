package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-csi/holdfast/test/vm"
)

// Node is a machine with the node plugin.
type Node struct {
	*vm.Machine
	CSI csi.NodeClient
	ID  string

	cluster *Cluster
	plugin  *vm.Process
	conn    *grpc.ClientConn
}

// stateDir survives the plugin, and the node's power too: it is on its disk.
const stateDir = "/data/holdfast"

// join gives a node its files and starts the plugin.
func (c *Cluster) join(ctx context.Context, n *Node) error {
	text := c.hosts("node", tlsDir, func(s *Storage) string { return fmt.Sprintf("%s:%d", s.Addr(), agentPort) })
	if err := n.PutBytes(ctx, []byte(text), hostsFile, 0o600); err != nil {
		return err
	}
	for _, s := range c.Storages {
		for _, f := range []string{"ca.crt", "node.crt", "node.key"} {
			b, err := os.ReadFile(filepath.Join(c.dir, "tls", s.Name, f))
			if err != nil {
				return err
			}
			if err := n.PutBytes(ctx, b, filepath.Join(tlsDir, s.Name, f), 0o600); err != nil {
				return err
			}
		}
	}
	return n.StartPlugin(ctx)
}

// StartPlugin starts the node plugin and waits until it answers. One that runs has
// to be ended before.
func (n *Node) StartPlugin(ctx context.Context) (err error) {
	if n.plugin != nil {
		if running, err := n.plugin.Running(ctx); err == nil && running { // with an error it went with its machine
			return fmt.Errorf("%s: its node plugin runs already", n.Name())
		}
	}
	args := []string{binPath, "node", "--node-name", n.Name(), "--state-dir", stateDir, "--hosts", hostsFile,
		"--connect", n.cluster.connect, "--csi-endpoint", "unix:///csi/csi.sock", "--metrics-address", "127.0.0.1:9808"}
	n.plugin, err = n.Start(ctx, "node", append(args, n.cluster.nodeFlags...)...)
	if err != nil {
		return err
	}
	if n.conn == nil {
		n.conn, err = grpc.NewClient("passthrough:///"+n.Name(),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 2 * time.Second}),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return n.Dial(ctx, "unix", "/csi/csi.sock") }))
		if err != nil {
			return err
		}
		n.CSI = csi.NewNodeClient(n.conn)
	}
	n.conn.ResetConnectBackoff()
	if err := ready(ctx, csi.NewIdentityClient(n.conn), "node plugin of "+n.Name()); err != nil {
		return fmt.Errorf("%w\n%s", err, n.PluginLog(ctx))
	}
	info, err := n.CSI.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	n.ID = info.GetNodeId()
	return err
}

// KillPlugin ends the node plugin with SIGKILL.
func (n *Node) KillPlugin(ctx context.Context) error { return n.plugin.Kill(ctx) }

// PluginPID is the plugin's process ID in the machine.
func (n *Node) PluginPID() int { return n.plugin.Pid() }

// PluginLog returns the plugin's log.
func (n *Node) PluginLog(ctx context.Context) string {
	text, err := n.plugin.Log(ctx)
	if err != nil {
		return err.Error()
	}
	return text
}

// Terminate sends SIGTERM to every process in the machine whose arguments,
// joined by spaces, have a part that matches the shell pattern.
func (n *Node) Terminate(ctx context.Context, pattern string) error {
	// No program is started for each: under emulation that costs 20 ms.
	_, err := n.Shell(ctx, fmt.Sprintf(`set +e
for p in /proc/[0-9]*; do
  [ $p != /proc/$$ ] && { mapfile -d '' -t args <$p/cmdline; } 2>/dev/null || continue
  case "${args[*]} " in *%s*) kill -TERM ${p#/proc/};; esac
done; exit 0`, pattern))
	return err
}

// PowerOn boots a node after a power cut, gives it again what lay in its memory
// and starts the plugin.
func (n *Node) PowerOn(ctx context.Context) error {
	if err := n.Boot(ctx); err != nil {
		return err
	}
	return n.cluster.join(ctx, n)
}
