//go:build linux

package kube

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// Simulated is a control plane without machines: its nodes are objects that kwok keeps
// Ready, and their pods run because kwok says so. What takes part in it are processes
// in its network namespace. Of Cluster's methods those that need no machine work.
type Simulated struct {
	*Cluster
	mu      sync.Mutex
	running map[string]*process // by name, the control plane's too; guarded by mu
}

// StartSimulated builds what is missing and returns when the API server serves and
// kwok waits for nodes. Everything that it writes is below dir. It needs root.
func StartSimulated(ctx context.Context, dir string, log func(string, ...any)) (_ *Simulated, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a cluster needs root: it makes a network namespace")
	}
	s := &Simulated{Cluster: &Cluster{log: log, dir: dir}, running: map[string]*process{}}
	if s.bin, err = build(ctx, clusterParts, log); err != nil {
		return nil, err
	}
	more, err := build(ctx, simulatedParts, log)
	if err != nil {
		return nil, err
	}
	maps.Copy(s.bin, more)
	if s.ns, err = newNetns(ctx, dir); err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Simulated) start(ctx context.Context) (err error) {
	for _, address := range []string{controlAddr, serviceAddr} {
		if err := s.AddAddress(ctx, address); err != nil {
			return err
		}
	}
	if s.control, err = startControlPlane(ctx, s.dir, s.ns, s.bin, 0); err != nil {
		return err
	}
	for _, p := range s.ns.all {
		s.running[p.name] = p
	}
	return s.startNodes()
}

// stages are what happens to nodes and pods.
//
//go:embed stages.yaml
var stages string

// leaseTime has a node's lease renewed each 25 s, in seconds. A kubelet renews its
// each ten, which of a thousand nodes would be half a processor that is not of interest;
// the controller-manager waits for 50 s.
const leaseTime = "100"

func (s *Simulated) startNodes() error {
	file := filepath.Join(s.dir, "stages.yaml")
	if err := os.WriteFile(file, []byte(stages), 0o600); err != nil {
		return err
	}
	return s.Run(Program{Name: "kwok", Path: "kwok", Args: []string{
		"--kubeconfig=" + s.control.admin, "--config=" + file, "--manage-all-nodes", "--node-lease-duration-seconds=" + leaseTime,
	}})
}

// AddAddress gives the network namespace one more address.
func (s *Simulated) AddAddress(ctx context.Context, address string) error {
	return s.ns.ip(ctx, "addr add "+address+"/32 dev lo")
}

// BuildCommand compiles a command of this module and has Run know it by its name.
func (s *Simulated) BuildCommand(ctx context.Context, pkg string) error {
	path, err := cluster.Build(ctx, pkg)
	s.bin[filepath.Base(pkg)] = path
	return err
}

// simulatedNode is a node as its kubelet and the plugin on it would have made it.
const simulatedNode = `---
apiVersion: v1
kind: Node
metadata:
  name: %[1]s
  labels: {kubernetes.io/hostname: %[1]s, kubernetes.io/os: linux}
  annotations: {volumes.kubernetes.io/controller-managed-attach-detach: "true"}
status:
  allocatable: &room {cpu: "32", memory: 128Gi, pods: "%[2]d"}
  capacity: *room
---
apiVersion: storage.k8s.io/v1
kind: CSINode
metadata: {name: %[1]s}
spec: {drivers: [{name: %[3]s, nodeID: %[4]s, topologyKeys: [], allocatable: {count: 200}}]}
`

// nodesTime bounds the making of nodes. A thousand take half a minute on processors
// that have nothing else to do.
const nodesTime = 20 * time.Minute

// AddNodes makes nodes with room for a number of pods each, and waits until they are
// Ready. It returns the node IDs of the driver on them, by the nodes' names.
func (s *Simulated) AddNodes(ctx context.Context, nodes, pods int) (map[string]string, error) {
	var objects strings.Builder
	ids := map[string]string{}
	for i := range nodes {
		name := fmt.Sprintf("node-%04d", i)
		id, err := volume.NodeID(name, "machine "+name, "installation "+name)
		if err != nil {
			return nil, err
		}
		ids[name] = id
		fmt.Fprintf(&objects, simulatedNode, name, pods, volume.DriverName, id)
	}
	if err := s.Create(ctx, objects.String()); err != nil {
		return nil, err
	}
	return ids, WaitFor(ctx, nodesTime, "all nodes are Ready", func(ctx context.Context) (bool, error) {
		out, err := s.Kubectl(ctx, "get", "nodes", "--no-headers", "-o", `custom-columns=READY:.status.conditions[?(@.type=="Ready")].status`)
		ready := strings.Count(out, "True")
		if err == nil && ready < nodes {
			err = fmt.Errorf("%d of %d are", ready, nodes)
		}
		return err == nil, err
	})
}

// Create makes many objects: what apply would do for each beside it is left out.
func (s *Simulated) Create(ctx context.Context, yaml string) error {
	_, err := s.client(ctx, yaml, "kubectl", "create", "--validate=false", "-f", "-")
	return err
}

// Program is one that runs beside the control plane.
type Program struct {
	Name string // of the process and, with .log, of its log, which goes on when it is run again
	Path string // or the name of one that is built
	Args []string
	Env  []string
	Run  string // directory that it sees as /run, as Credentials makes it; "" is the machine's
}

// behindRun puts a directory in the place of /run for one program alone.
var behindRun = []string{"unshare", "--mount", "--propagation", "private", "sh", "-ec", `mount --bind "$0" /run; exec "$@"`}

// Run starts a program. All that stands before it turns into it, so its PID is the
// program's.
func (s *Simulated) Run(p Program) error {
	if built, ok := s.bin[p.Path]; ok {
		p.Path = built
	}
	line := slices.Concat([]string{"env"}, p.Env, []string{p.Path}, p.Args)
	if p.Run != "" {
		line = slices.Concat(behindRun, []string{p.Run}, line)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.running[p.Name]; old != nil && !old.ended() {
		return fmt.Errorf("%s runs already", p.Name)
	}
	started, err := s.ns.start(p.Name, line[0], line[1:]...)
	if err == nil {
		s.running[p.Name] = started
	}
	return err
}

// Kill ends programs with SIGKILL, all before it waits for the first.
func (s *Simulated) Kill(names ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		if s.running[name] == nil {
			return fmt.Errorf("%s does not run", name)
		}
	}
	for _, name := range names {
		if err := s.running[name].cmd.Process.Signal(syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill %s: %w", name, err)
		}
	}
	for _, name := range names {
		<-s.running[name].done
		delete(s.running, name)
	}
	return nil
}

// Processes are the PIDs of all programs that should be running, by name. One that
// has ended by itself is an error, with the end of its log.
func (s *Simulated) Processes() (map[string]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for name, p := range s.running {
		if p.ended() {
			return nil, fmt.Errorf("%s has ended:\n%s", name, tail(s.Log(name)))
		}
		out[name] = p.cmd.Process.Pid
	}
	return out, nil
}

// Log is the path of a program's log.
func (s *Simulated) Log(name string) string { return filepath.Join(s.dir, name+".log") }

// AuditLog is the path of the API server's record of what service accounts asked for.
func (s *Simulated) AuditLog() string { return s.control.auditLog() }

// Dir is the directory that everything is below.
func (s *Simulated) Dir() string { return s.dir }

// Credentials makes what a pod of a service account finds: a directory to be seen as
// /run, and variables.
func (s *Simulated) Credentials(ctx context.Context, namespace, account string) (dir string, env []string, err error) {
	token, err := s.Kubectl(ctx, "-n", namespace, "create", "token", account, "--duration=24h")
	if err != nil {
		return "", nil, err
	}
	ca, err := os.ReadFile(s.control.pki.path("ca.crt"))
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(s.dir, "run-"+account)
	secrets := filepath.Join(dir, "secrets", "kubernetes.io", "serviceaccount")
	err = os.MkdirAll(secrets, 0o700)
	for name, text := range map[string]string{"token": strings.TrimSpace(token), "ca.crt": string(ca), "namespace": namespace} {
		err = errors.Join(err, os.WriteFile(filepath.Join(secrets, name), []byte(text), 0o600))
	}
	return dir, []string{"KUBERNETES_SERVICE_HOST=" + serviceAddr, "KUBERNETES_SERVICE_PORT=443"}, err
}

// Close ends all processes and removes the network namespace.
func (s *Simulated) Close() error { return s.ns.close() }
