//go:build linux

package kube

import (
	"context"
	"fmt"
	"strings"

	"github.com/holdfast-csi/holdfast/test/vm"
)

// Storage is a storage host outside of the cluster.
type Storage struct {
	*vm.Machine
	cluster *Cluster
	number  int
	agent   *vm.Process
}

// ClusterID is what the storage hosts are told, and the chart.
const ClusterID = "kube-test"

// setUp makes the host with the product's own command. Its root is in memory: what
// must survive is on the disk.
func (s *Storage) setUp(ctx context.Context) error {
	const script = `mkdir -p /data/pool && holdfast target init --dir /data/holdfast --state-dir /data/holdfast/state --host %s --address %s --pool fast=/data/pool --cluster-id %s`
	if out, err := s.Shell(ctx, fmt.Sprintf(script, s.Name(), storageAddr(s.number), ClusterID)); err != nil {
		return fmt.Errorf("set up %s: %w\n%s", s.Name(), err, out)
	}
	return s.start(ctx)
}

// start does what a service manager would at boot.
func (s *Storage) start(ctx context.Context) (err error) {
	var routes []string
	for _, n := range s.cluster.Nodes {
		routes = append(routes, fmt.Sprintf("ip route replace %s via %s", podRange(n.number), nodeStorageAddr(n.number)))
	}
	if _, err := s.Shell(ctx, strings.Join(routes, "\n")); err != nil {
		return err
	}
	s.agent, err = s.Start(ctx, "target", "holdfast", "target", "--config", "/data/holdfast/target.yaml")
	return err
}

// KillAgent ends the agent with SIGKILL; StartAgent starts another one.
func (s *Storage) KillAgent(ctx context.Context) error { return s.agent.Kill(ctx) }

// StartAgent starts the agent, as a service manager would.
func (s *Storage) StartAgent(ctx context.Context) error { return s.start(ctx) }

// PowerOn boots the host after a power cut.
func (s *Storage) PowerOn(ctx context.Context) error {
	if err := s.Boot(ctx); err != nil {
		return err
	}
	return s.start(ctx)
}

// Address is where the agent listens.
func (s *Storage) Address() string { return storageAddr(s.number) + ":9700" }
