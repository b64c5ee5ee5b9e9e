//go:build kernel

package agenttest

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/gate"
	"github.com/holdfast-csi/holdfast/internal/nvmet"
)

// NewReal returns a host on the running kernel: its target, its nftables, and
// pools on file systems of their own, served on 127.0.0.1 from port 4420 on.
// The target must be empty, and is taken apart at the end.
func NewReal(t testing.TB, pools ...string) *Env {
	t.Helper()
	if os.Getenv("HOLDFAST_VM") == "" {
		t.Skip("changes the machine's NVMe target: run it in a virtual machine (test/vm/README.md)")
	}
	Shell(t, "mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config; modprobe nvmet-tcp; modprobe nvme-tcp; modprobe nf_tables; ip link set lo up")
	if err := nvmet.Ready(nvmet.DefaultRoot); err != nil {
		t.Fatal(err)
	}
	g, err := gate.New()
	if err != nil {
		t.Fatal(err)
	}
	root := tempDir(t)
	e := &Env{
		Host: HostName, Tree: nvmet.NewConfigFS(nvmet.DefaultRoot), Locks: g, State: filepath.Join(root, "state"),
		Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	for i, name := range pools {
		e.Pools = append(e.Pools, PoolSpec{
			Name: name, Dir: filepath.Join(root, name),
			Portal: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(4420+i)),
		})
		mountPool(t, filepath.Join(root, name), filepath.Join(root, name+".disk"))
	}
	t.Cleanup(func() { TakeApart(t) })
	e.Init(t)
	return e
}

// mountPool makes an ext4 in a file and mounts it.
func mountPool(t testing.TB, dir, disk string) {
	t.Helper()
	Shell(t, fmt.Sprintf("mkdir -p %[1]s && truncate -s 512M %[2]s && mkfs.ext4 -q -b 4096 -F %[2]s && mount -o loop %[2]s %[1]s", dir, disk))
	t.Cleanup(func() { Shell(t, "umount -l "+dir) })
}

// TakeApart empties the target, closed ports first, as a power cut does for
// the hosts: they meet a port that does not answer.
func TakeApart(t testing.TB) {
	t.Helper()
	Shell(t, `cd /sys/kernel/config/nvmet
for l in ports/*/subsystems/*; do [ -L "$l" ] && rm "$l"; done
for n in subsystems/*/namespaces/*; do [ -d "$n" ] && { echo 0 > $n/enable; rmdir $n; }; done
for l in subsystems/*/allowed_hosts/*; do [ -L "$l" ] && rm "$l"; done
for d in subsystems/* ports/* hosts/*; do [ -d "$d" ] && rmdir "$d"; done
nft delete table inet holdfast 2>/dev/null; true`)
}

// Shell runs a script and returns what it printed; a failure ends the test.
func Shell(t testing.TB, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", script) //nolint:noctx // a test in a machine that has a deadline
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%s\n%v", script, out, err)
	}
	return strings.TrimSpace(string(out))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}
