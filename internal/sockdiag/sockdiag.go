package sockdiag

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Connecting says whether anything on this machine has sent a SYN to remote and
// has no answer yet.
func Connecting(remote netip.AddrPort) (bool, error) {
	n, err := each(remote, func(*netlink.Conn, socket) error { return nil })
	return n > 0, err
}

// Abort makes every attempt to connect to remote fail with ECONNABORTED, and says
// how many there were. It needs CAP_NET_ADMIN.
func Abort(remote netip.AddrPort) (int, error) {
	return each(remote, func(c *netlink.Conn, s socket) error {
		_, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: typeDestroy, Flags: netlink.Request | netlink.Acknowledge},
			Data:   request(s.family, 1<<synSent, s.id),
		})
		if errors.Is(err, unix.ENOENT) {
			return nil // answered, or over, meanwhile
		}
		return err
	})
}

// each calls do for every socket that waits for the answer of remote.
func each(remote netip.AddrPort, do func(*netlink.Conn, socket) error) (n int, err error) {
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	// A program may have an IPv4 connection on an IPv6 socket.
	families := []uint8{unix.AF_INET6}
	if remote.Addr().Is4() {
		families = append(families, unix.AF_INET)
	}
	for _, family := range families {
		found, err := dump(c, family, remote)
		if err != nil {
			return n, fmt.Errorf("sock_diag: connections to %s: %w", remote, err)
		}
		for _, s := range found {
			if err := do(c, s); err != nil {
				return n, fmt.Errorf("sock_diag: end the connecting to %s: %w", remote, err)
			}
			n++
		}
	}
	return n, nil
}

func dump(c *netlink.Conn, family uint8, remote netip.AddrPort) ([]socket, error) {
	answers, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: typeByFamily, Flags: netlink.Request | netlink.Dump},
		Data:   request(family, 1<<synSent, nil),
	})
	if err != nil {
		return nil, err
	}
	var out []socket
	for _, a := range answers {
		s, err := parse(a.Data)
		if err != nil {
			return nil, err
		}
		if s.state == synSent && s.remote == remote {
			out = append(out, s)
		}
	}
	return out, nil
}
