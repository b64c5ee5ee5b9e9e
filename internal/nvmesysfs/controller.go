package nvmesysfs

import (
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Controller is one /sys/class/nvme/nvmeN: one connection.
type Controller struct {
	Name      string // nvme0
	Subsystem string // nvme-subsys0
	NQN       string // of the subsystem
	// State is new, live, resetting, connecting, deleting, "deleting (no IO)"
	// or dead. It cannot be polled for, and its changes are announced to nobody.
	State           string
	Transport       string // tcp, rdma, fc, loop
	Traddr, Trsvcid string
	// HostTraddr and HostIface are empty where the connection did not ask for them.
	HostTraddr, HostIface string
	HostNQN, HostID       string
	CtrlLossTmo           int // seconds as the kernel shows them, -1 for "off"
	ReconnectDelay        int // seconds
	FastIOFailTmo         int // seconds, -1 for "off"
	KATO                  int // keep-alive, seconds
	QueueCount            int // admin queue included
}

// Portal is the address as a value that can be compared: the kernel shows it as
// it was written at connect. False for transports without IP.
func (c Controller) Portal() (netip.AddrPort, bool) {
	ap, err := netip.ParseAddrPort(net.JoinHostPort(c.Traddr, c.Trsvcid))
	if err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), true
}

// Live says whether it carries I/O.
func (c Controller) Live() bool { return c.State == stateLive }

const stateLive = "live"

// Ending says whether the kernel is taking the controller away: it carries no
// I/O any more and does not stand in the way of another connect.
func (c Controller) Ending() bool {
	return strings.HasPrefix(c.State, "deleting") || c.State == "dead"
}

func (f FS) readController(name, subsystem, nqn string) (Controller, error) {
	r := newReader(filepath.Join(f.classDir(), name))
	defer r.close()
	c := Controller{Name: name, Subsystem: subsystem, NQN: r.text("subsysnqn")}
	if r.err == nil && c.NQN != nqn {
		// The name has passed to a controller of another subsystem since the
		// directory was listed.
		return Controller{}, syscall.ENODEV
	}
	if r.err != nil {
		return Controller{}, r.err
	}
	c.State = r.text("state")
	a := ParseUevent(r.optional("uevent"))
	c.Traddr, c.Trsvcid, c.HostTraddr, c.HostIface = a.Traddr, a.Trsvcid, a.HostTraddr, a.HostIface
	c.HostNQN, c.HostID = r.optional("hostnqn"), r.optional("hostid")
	c.CtrlLossTmo = seconds(r.optional("ctrl_loss_tmo"))
	c.ReconnectDelay = seconds(r.optional("reconnect_delay"))
	c.FastIOFailTmo = seconds(r.optional("fast_io_fail_tmo"))
	c.KATO = seconds(r.optional("kato"))
	c.QueueCount = seconds(r.optional("queue_count"))
	c.Transport = r.text("transport") // last: it is the first of these to go (nvme_dev_attrs)
	return c, r.err
}

// seconds reads a count. "off" is -1, and so are negative numbers and the text
// of an attribute that this kernel does not have.
func seconds(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// Address is where a connection goes, and from where.
type Address struct{ Traddr, Trsvcid, HostTraddr, HostIface string }

// ParseUevent reads the address of a controller from its attribute "uevent", lines
// of KEY=value in any order (nvme_class_uevent, since before Linux 6.1). What is
// not a known pair is skipped, "none" is nothing; of a key given twice the first
// counts. The attribute "address" says the same, and must not be read: the kernel
// looks the source address up in a socket that may be taken down in that moment,
// and dereferences NULL (nvme_tcp_get_address; a panic, seen on 6.12.117).
func ParseUevent(s string) Address {
	var a Address
	for line := range strings.Lines(s) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		for _, f := range []struct {
			key string
			to  *string
		}{
			{"NVME_TRADDR", &a.Traddr}, {"NVME_TRSVCID", &a.Trsvcid},
			{"NVME_HOST_TRADDR", &a.HostTraddr}, {"NVME_HOST_IFACE", &a.HostIface},
		} {
			if k == f.key && *f.to == "" && v != "none" {
				*f.to = v
			}
		}
	}
	return a
}
