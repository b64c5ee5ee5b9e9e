//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
)

// forward opens a port of this machine for a port of the virtual one. The harness listens itself, so the address is held
// for the life of the machine, whoever else looks for a free port while it has no power.
func (m *Machine) forward(guestPort int) error {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("forward port %d: %w", guestPort, err)
	}
	m.forwards[guestPort] = l
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go m.splice(conn, guestPort)
		}
	}()
	return nil
}

// ForwardAddr returns the address here of a port named in MachineConfig.Forward, or "".
func (m *Machine) ForwardAddr(guestPort int) string {
	l, ok := m.forwards[guestPort]
	if !ok {
		return ""
	}
	return l.Addr().String()
}

// splice connects a client with the machine, or resets its connection when the machine would refuse or is off.
func (m *Machine) splice(client net.Conn, guestPort int) {
	defer client.Close()
	server, err := m.dialPort(context.Background(), guestPort)
	if err != nil {
		if tcp, ok := client.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // makes Close send a reset
		}
		return
	}
	defer server.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(server, client) // an error is the end of the stream, which the other side sees
		closeWrite(server)
	}()
	_, _ = io.Copy(client, server)
	closeWrite(client)
	<-done
}

// dialPort tries the loopback and then the machine's own addresses, so that a service bound to one of them is found.
func (m *Machine) dialPort(ctx context.Context, port int) (net.Conn, error) {
	hosts := []string{"127.0.0.1"}
	for _, nic := range m.nics {
		hosts = append(hosts, nic.addr.Addr().String())
	}
	var last error
	for _, host := range hosts {
		conn, err := m.Dial(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			return conn, nil
		}
		last = err
		if !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
	}
	return nil, last
}

func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // fails on a broken connection, which is then closed anyway
	}
}

// refuseScript makes a table of its own, ahead of all that the product installs, in which ports can be listed.
const refuseScript = `nft -f - <<'X'
add table inet fault
add set inet fault refused { type inet_service; }
add chain inet fault input { type filter hook input priority -350; }
flush chain inet fault input
add rule inet fault input tcp dport @refused reject with tcp reset
add element inet fault refused { %[1]d }
X
ss -K state connected sport = :%[1]d >/dev/null`

// Refuse answers TCP to a port of the machine with a reset, as a machine does on which the service is gone. Connections
// that exist are cut. It holds until Unrefuse or the next boot.
func (m *Machine) Refuse(ctx context.Context, tcpPort int) error {
	_, err := m.Shell(ctx, fmt.Sprintf(refuseScript, tcpPort))
	return err
}

// Unrefuse ends Refuse; it does nothing for a port that is not refused.
func (m *Machine) Unrefuse(ctx context.Context, tcpPort int) error {
	_, err := m.Shell(ctx, fmt.Sprintf(
		"if nft get element inet fault refused '{ %[1]d }' >/dev/null 2>&1; then nft delete element inet fault refused '{ %[1]d }'; fi",
		tcpPort))
	return err
}
