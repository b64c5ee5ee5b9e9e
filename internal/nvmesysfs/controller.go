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
	// HostTraddr and HostIface are empty where the connection did not ask for
	// them. SrcAddr is not known where the kernel has better ways to say the rest.
	HostTraddr, HostIface, SrcAddr string
	HostNQN, HostID                string
	CtrlLossTmo                    int // seconds as the kernel shows them, -1 for "off"
	ReconnectDelay                 int // seconds
	FastIOFailTmo                  int // seconds, -1 for "off"
	KATO                           int // keep-alive, seconds
	QueueCount                     int // admin queue included
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
	a := parseUevent(r.optional("uevent"))
	if a.Traddr == "" {
		a = ParseAddress(r.optional("address"))
	}
	c.Traddr, c.Trsvcid, c.HostTraddr, c.HostIface, c.SrcAddr = a.Traddr, a.Trsvcid, a.HostTraddr, a.HostIface, a.SrcAddr
	c.HostNQN, c.HostID = r.optional("hostnqn"), r.optional("hostid")
	c.CtrlLossTmo = seconds(r.optional("ctrl_loss_tmo"))
	c.ReconnectDelay = seconds(r.optional("reconnect_delay"))
	c.FastIOFailTmo = seconds(r.optional("fast_io_fail_tmo"))
	c.KATO = seconds(r.optional("kato"))
	c.QueueCount = seconds(r.optional("queue_count"))
	c.Transport = r.text("transport") // last: it is the first of these to go (nvme_dev_attrs)
	return c, r.err
}

// parseUevent reads the address of a controller from its attribute "uevent", lines
// of KEY=value (nvme_class_uevent, since before Linux 6.1). The attribute "address"
// says the same, and must not be read: the kernel looks up the source address in a
// socket that may be taken down in that moment, and dereferences NULL
// (nvme_tcp_get_address; a panic, seen on 6.12.117). Zero if it is not there.
func parseUevent(text string) (a Address) {
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		if v == "none" {
			continue
		}
		switch k {
		case "NVME_TRADDR":
			a.Traddr = v
		case "NVME_TRSVCID":
			a.Trsvcid = v
		case "NVME_HOST_TRADDR":
			a.HostTraddr = v
		case "NVME_HOST_IFACE":
			a.HostIface = v
		}
	}
	return a
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

// Address is the content of a controller's address attribute.
type Address struct{ Traddr, Trsvcid, HostTraddr, HostIface, SrcAddr string }

// ParseAddress reads key=value pairs separated by commas, in any order. Keys
// come and go with the state (src_addr is there only while the admin queue is
// live), so the text must never be compared as a whole. What is not a known
// pair is skipped; of a key given twice the first counts.
func ParseAddress(s string) Address {
	var a Address
	for part := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		k, v, _ := strings.Cut(part, "=")
		for _, f := range []struct {
			key string
			to  *string
		}{
			{"traddr", &a.Traddr}, {"trsvcid", &a.Trsvcid}, {"host_traddr", &a.HostTraddr},
			{"host_iface", &a.HostIface}, {"src_addr", &a.SrcAddr},
		} {
			if k == f.key && *f.to == "" {
				*f.to = v
			}
		}
	}
	return a
}
