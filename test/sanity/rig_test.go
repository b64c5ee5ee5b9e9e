package sanity

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
	"github.com/holdfast-csi/holdfast/internal/backend"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/node/nodetest"
	"github.com/holdfast-csi/holdfast/internal/nvmet/nvmettest"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/driver"
)

// target is the model of the storage host's kernel as a host of it sees it: the
// disks are the files of the pool.
type target struct{ k *nvmettest.Kernel }

// blockSize is what nvmet makes of a file on ext4, XFS or btrfs.
const blockSize = 4096

func (x target) Visible(nqn, hostNQN string) (list []nodetest.Namespace, ok bool) {
	for _, ns := range x.k.Visible(nqn, hostNQN) {
		info, err := os.Stat(ns.Path)
		if err != nil {
			continue
		}
		list = append(list, nodetest.Namespace{
			NSID: ns.NSID, UUID: ns.UUID, NGUID: ns.NGUID, SizeBytes: info.Size(), BlockSize: blockSize, Medium: nodetest.File{Path: ns.Path},
		})
	}
	return list, x.k.Connectable(nqn, hostNQN)
}

// rig is the driver with everything around it.
type rig struct {
	*testing.T
	csi.ControllerClient
	csi.NodeClient
	env      *agenttest.Env
	agent    *agenttest.Agent
	machine  *nodetest.Machine
	flow     *node.Node
	root     string // of the node's paths
	endpoint string
}

const (
	clusterID = "cluster"
	nodeID    = "node1-00000001"
)

// newRig starts everything; it ends with the test.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, env: agenttest.New(t, "fast"), root: t.TempDir()}
	r.agent = r.env.StartServing(t)
	r.machine = nodetest.New(t, target{r.env.Kernel})
	proc := r.machine.Start(func(string) (volume.FormatAuthority, error) { return r.agent, nil })
	nqn, hostID := volume.HostIdentity(clusterID, nodeID)
	flow, err := node.New(node.Options{
		RunDir: filepath.Join(r.root, "run"), BootID: "boot", Fabric: proc, Sysfs: proc, Mounter: proc, Disk: proc, Flusher: proc,
		Guards: proc, Authorities: proc.Authorities, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.flow = flow
	s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		resp, err := next(ctx, req)
		return resp, rpcerr.ToStatus(err)
	}))
	csi.RegisterIdentityServer(s, &driver.Identity{Version: "test"})
	csi.RegisterControllerServer(s, &driver.Controller{Hosts: backend.New(map[string]volume.Backend{agenttest.HostName: r.agent}), ClusterID: clusterID})
	csi.RegisterNodeServer(s, &driver.Node{Identity: driver.NodeIdentity{NodeID: nodeID, HostNQN: nqn, HostID: hostID}, Flow: flow})
	r.serve(s)
	return r
}

func (r *rig) serve(s *grpc.Server) {
	r.Helper()
	// Not below the test's directory: the path of a socket is short.
	dir, err := os.MkdirTemp("", "csi")
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		r.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	r.Cleanup(s.Stop)
	r.endpoint = "unix://" + socket
	conn, err := grpc.NewClient(r.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = conn.Close() })
	r.ControllerClient, r.NodeClient = csi.NewControllerClient(conn), csi.NewNodeClient(conn)
}

// world is everything that a request may change.
type world struct {
	Volumes      []volume.Volume
	Publications []volume.Publication
	Target       []string
	Files        []string
	Records      []string // JSON
	Mounts       []string
	Sessions     []string
	Tables       []string
	Paths        []string
}

func (r *rig) look() world {
	r.Helper()
	vs, err1 := r.agent.List(r.Context(), uuid.Nil, 0)
	ps, err2 := r.agent.Publications(r.Context())
	staged := r.flow.Records()
	for _, err := range []error{err1, err2} {
		if err != nil {
			r.Fatal(err)
		}
	}
	var records []string
	for _, x := range staged {
		b, err := json.Marshal(x)
		if err != nil {
			r.Fatal(err)
		}
		records = append(records, string(b))
	}
	return world{
		Volumes: vs, Publications: ps, Target: r.env.Kernel.Dump(), Files: below(r.T, r.env.Pools[0].Dir), Records: records,
		Mounts: r.machine.Mounted(), Sessions: r.machine.Sessions(), Tables: r.machine.Tables(), Paths: below(r.T, r.root),
	}
}

func below(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	return paths
}
