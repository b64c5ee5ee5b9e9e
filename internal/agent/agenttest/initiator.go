//go:build kernel

package agenttest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Session is a controller of the running kernel's NVMe host, connected to one
// session of the agent. It is a second opinion: it shares no code with
// internal/initiator.
type Session struct {
	NQN  string
	ctrl string // /sys/class/nvme/nvmeN
	t    testing.TB
}

// Connect connects as the host of req to the session of p, with one queue, an
// attempt to reconnect every second, for ever.
func Connect(t testing.TB, req volume.PublishRequest, p volume.Publication) *Session {
	t.Helper()
	portal := netip.MustParseAddrPort(p.Portals[0])
	f, err := os.OpenFile("/dev/nvme-fabrics", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, "transport=tcp,traddr=%s,trsvcid=%d,nqn=%s,hostnqn=%s,hostid=%s,nr_io_queues=1,ctrl_loss_tmo=-1,reconnect_delay=1,keep_alive_tmo=5",
		portal.Addr(), portal.Port(), p.SubsystemNQN, req.HostNQN, req.HostID)
	if err != nil {
		t.Fatalf("connect to %s: %v\n%s", p.SubsystemNQN, err, Shell(t, "dmesg | tail -5"))
	}
	b := make([]byte, 200)
	n, err := f.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	instance, _, _ := strings.Cut(strings.TrimPrefix(string(b[:n]), "instance="), ",")
	s := &Session{NQN: p.SubsystemNQN, ctrl: "/sys/class/nvme/nvme" + instance, t: t}
	t.Cleanup(func() { _ = os.WriteFile(s.ctrl+"/delete_controller", []byte("1"), 0) })
	return s
}

// Attr returns an attribute of the controller, "" if the controller is gone.
func (s *Session) Attr(name string) string { return read(s.ctrl + "/" + name) }

// Live reports whether the controller is connected.
func (s *Session) Live() bool { return s.Attr("state") == "live" && s.Attr("subsysnqn") == s.NQN }

// WaitLive waits until the controller is connected.
func (s *Session) WaitLive(limit time.Duration) {
	s.t.Helper()
	Wait(s.t, limit, func() string {
		if s.Live() {
			return ""
		}
		return fmt.Sprintf("controller %s is %q", s.ctrl, s.Attr("state"))
	})
}

// Device waits for the disk of p and returns its node in /dev.
func (s *Session) Device(p volume.Publication) string {
	s.t.Helper()
	dev := ""
	Wait(s.t, 20*time.Second, func() string {
		dev = Find(p)
		if dev == "" {
			return fmt.Sprintf("no disk with UUID %s; controller %s is %q", p.Volume, s.ctrl, s.Attr("state"))
		}
		return ""
	})
	return dev
}

// Find returns the node of the disk of p, or "".
func Find(p volume.Publication) string {
	dirs, _ := filepath.Glob("/sys/class/block/nvme*n*")
	for _, dir := range dirs {
		dev := "/dev/" + filepath.Base(dir)
		var st unix.Stat_t
		if read(dir+"/uuid") == p.Volume.String() && read(dir+"/nsid") == strconv.Itoa(int(p.NSID)) && read(dir+"/device/subsysnqn") == p.SubsystemNQN &&
			read(dir+"/size") != "0" && unix.Stat(dev, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			return dev
		}
	}
	return ""
}

func read(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

// Wait calls cond until it returns "", which is what is still wanting.
func Wait(t testing.TB, limit time.Duration, cond func() string) {
	t.Helper()
	wanting := ""
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if wanting = cond(); wanting == "" {
			return
		}
	}
	t.Fatalf("after %s: %s\n%s", limit, wanting, Shell(t, "dmesg | tail -15"))
}
