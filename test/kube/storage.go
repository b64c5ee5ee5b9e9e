//go:build linux

package kube

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/holdfast-csi/holdfast/test/vm"
)

// Storage is a storage host outside of the cluster.
type Storage struct {
	*vm.Machine
	cluster *Cluster
	number  int
}

// hostDirs puts what must survive a power cut on the disk, because the machine's root
// is in memory.
const hostDirs = `
for d in /etc/holdfast /var/lib/holdfast /srv/fast; do
  mkdir -p /data$d $d
  mount --bind /data$d $d
done
`

// standIns are apt and systemctl for what a storage host is told to do with them.
//
//go:embed standins.sh
var standIns string

// atBoot does what a service manager would: files of a package stay installed, and
// units enabled.
const atBoot = `
if [ -e /data/enabled-holdfast-target ]; then
  apt install /root/holdfast_test_amd64.deb
  systemctl start holdfast-target
fi
`

// prepare is what every boot of such a host does.
func (s *Storage) prepare(ctx context.Context) error {
	lines := []string{hostDirs, standIns}
	for _, n := range s.cluster.Nodes { // replies to pods find their node
		lines = append(lines, fmt.Sprintf("ip route replace %s via %s", podRange(n.number), nodeStorageAddr(n.number)))
	}
	out, err := s.Shell(ctx, strings.Join(append(lines, atBoot), "\n"))
	if err != nil {
		return fmt.Errorf("prepare %s: %w\n%s", s.Name(), err, out)
	}
	return nil
}

// KillAgent ends the agent with SIGKILL; its service manager starts another one.
func (s *Storage) KillAgent(ctx context.Context) error {
	_, err := s.Shell(ctx, "pkill -KILL -f '^/usr/bin/holdfast target'")
	return err
}

// AgentLog is the agent's log since the last boot.
func (s *Storage) AgentLog(ctx context.Context) string {
	b, err := s.Get(ctx, "/var/log/holdfast-target.log")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// PowerOn boots the host after a power cut.
func (s *Storage) PowerOn(ctx context.Context) error {
	if err := s.Boot(ctx); err != nil {
		return err
	}
	return s.prepare(ctx)
}
