package agenttest

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/holdfast-csi/holdfast/internal/agent"
	"github.com/holdfast-csi/holdfast/internal/agentclient"
	"github.com/holdfast-csi/holdfast/internal/gate"
	"github.com/holdfast-csi/holdfast/internal/gate/gatetest"
	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/nvmet/nvmettest"
	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/pool/file"
	"github.com/holdfast-csi/holdfast/internal/store"
)

// HostName is the name of the storage host.
const HostName = "box1"

// servingTime is how long a pool may take to serve before a test fails.
const servingTime = 10 * time.Second

// PoolSpec is one pool of the host.
type PoolSpec struct {
	Name   string
	Portal netip.AddrPort
	Dir    string
}

// Env is what survives the agent: the kernel, the gate and the disks.
type Env struct {
	// Kernel and Gate are the models; nil when Tree and RealGate are real.
	Kernel *nvmettest.Kernel
	Gate   *gatetest.Fake
	Tree   nvmet.Tree
	Locks  gate.Gate
	Pools  []PoolSpec
	State  string // directory of the database
	Host   string // name of the storage host
	// KickAfter and RetryAfter are passed to the agent.
	KickAfter, RetryAfter time.Duration
	// Wrap, if set, stands in front of every pool that is opened.
	Wrap func(name string, p pool.Pool) pool.Pool
	// Log is where the agent logs; discarded by default.
	Log *slog.Logger
	// AnyFS allows pools on any file system.
	AnyFS bool
}

// New returns a host with pools of these names, the first on port 4420.
func New(t testing.TB, pools ...string) *Env {
	t.Helper()
	root := tempDir(t)
	e := &Env{Kernel: nvmettest.New(), Gate: gatetest.NewFake(), Host: HostName, State: filepath.Join(root, "state"), AnyFS: true, Log: slog.New(slog.DiscardHandler)}
	e.Tree, e.Locks = e.Kernel, e.Gate
	e.Kernel.DeviceExists = func(path string) bool { _, err := os.Stat(path); return err == nil }
	for i, name := range pools {
		e.Pools = append(e.Pools, PoolSpec{
			Name: name, Dir: filepath.Join(root, name),
			Portal: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 2}), uint16(4420+i)),
		})
	}
	e.Init(t)
	return e
}

// tempDir is in memory where it can be: hundreds of hosts are made, and each of
// their changes is flushed to the disk.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "holdfast-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Init makes the database and the pools.
func (e *Env) Init(t testing.TB) {
	t.Helper()
	if err := os.MkdirAll(e.State, 0o700); err != nil {
		t.Fatal(err)
	}
	db := e.OpenDB(t)
	for _, p := range e.Pools {
		if err := os.MkdirAll(p.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := file.Init(e.options(p, db.Installation().ID)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// OpenDB opens the database; no agent may be running.
func (e *Env) OpenDB(t testing.TB) *store.DB {
	t.Helper()
	db, err := store.Open(filepath.Join(e.State, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func (e *Env) options(p PoolSpec, installation string) file.Options {
	return file.Options{Name: p.Name, Dir: p.Dir, Installation: installation, AllowAnyFS: e.AnyFS, ReserveBytes: 1 << 20}
}

// PowerCycle makes kernel and gate forget everything.
func (e *Env) PowerCycle() {
	e.Kernel.Reboot()
	e.Gate.Reboot()
}

// Agent is a running agent and a client of it.
type Agent struct {
	*agentclient.Client
	Service *agent.Service
	Faults  *Faults

	t      testing.TB
	cancel context.CancelFunc
	ran    chan struct{}
	server *grpc.Server
}

// Start starts the agent; it ends with the test at the latest. What faults are
// may be nil.
func (e *Env) Start(t testing.TB, faults *Faults) *Agent {
	t.Helper()
	if faults == nil {
		faults = &Faults{}
	}
	db := e.OpenDB(t)
	faults.onKill = func() { _ = db.Close() }
	o := agent.Options{
		Host: e.Host, Version: "test", DB: db, Tree: tree{e.Tree, faults}, Gate: mortalGate{e.Locks, faults},
		Log: e.Log, KickAfter: e.KickAfter, RetryAfter: e.RetryAfter,
	}
	for _, p := range e.Pools {
		o.Pools = append(o.Pools, agent.PoolOptions{Name: p.Name, Portal: p.Portal, Open: func() (pool.Pool, error) {
			opened, err := file.Open(e.options(p, db.Installation().ID))
			if err != nil {
				return nil, err
			}
			var wrapped pool.Pool = mortalPool{opened, faults}
			if e.Wrap != nil {
				wrapped = e.Wrap(p.Name, wrapped)
			}
			return wrapped, nil
		}})
	}
	a := &Agent{Service: agent.New(o), Faults: faults, t: t, ran: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	go func() { defer close(a.ran); a.Service.Run(ctx) }()
	l := bufconn.Listen(1 << 20)
	a.server = grpc.NewServer(grpc.UnaryInterceptor(agent.Interceptor(e.Log)))
	agent.Register(a.server, a.Service)
	go func() { _ = a.server.Serve(l) }() // ends with Stop
	client, err := agentclient.InProcess(HostName, l)
	if err != nil {
		t.Fatal(err)
	}
	a.Client = client
	t.Cleanup(a.Kill)
	return a
}

// StartServing starts the agent and waits until every pool serves.
func (e *Env) StartServing(t testing.TB) *Agent {
	t.Helper()
	a := e.Start(t, nil)
	a.WaitServing()
	return a
}

// WaitServing waits until the named pools, or all, have no problem.
func (a *Agent) WaitServing(names ...string) {
	a.t.Helper()
	var last error
	for end := time.Now().Add(servingTime); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if last = a.serving(names); last == nil {
			return
		}
	}
	a.t.Fatalf("after %s: %v", servingTime, last)
}

func (a *Agent) serving(names []string) error {
	info, err := a.Service.Info(context.Background())
	if err != nil {
		return err
	}
	for _, p := range info.Pools {
		wanted := len(names) == 0
		for _, n := range names {
			wanted = wanted || n == p.Name
		}
		if wanted && p.Problem != "" {
			return fmt.Errorf("pool %s: %s", p.Name, p.Problem)
		}
	}
	return nil
}

// Kill ends the agent as kill -9 does, except that the file lock is gone when
// it returns. It may be called again.
func (a *Agent) Kill() {
	a.Faults.Kill()
	a.cancel()
	a.server.Stop()
	_ = a.Close()
	<-a.ran
}
