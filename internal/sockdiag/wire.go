package sockdiag

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Numbers of linux/sock_diag.h and linux/inet_diag.h, and net/tcp_states.h.
const (
	typeByFamily = 20 // SOCK_DIAG_BY_FAMILY
	typeDestroy  = 21 // SOCK_DESTROY
	synSent      = 2  // TCP_SYN_SENT

	idSize  = 48         // struct inet_diag_sockid
	reqSize = 8 + idSize // struct inet_diag_req_v2
	msgSize = 72         // struct inet_diag_msg
)

// request is struct inet_diag_req_v2. A nil id asks for all.
func request(family uint8, states uint32, id []byte) []byte {
	b := make([]byte, reqSize)
	b[0], b[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], states)
	copy(b[8:], id)
	return b
}

// socket is what is needed of struct inet_diag_msg.
type socket struct {
	family, state uint8
	remote        netip.AddrPort
	id            []byte // as it came, with the cookie: it names this socket and no later one
}

var errShort = errors.New("the kernel's answer is too short")

func parse(b []byte) (socket, error) {
	if len(b) < msgSize {
		return socket{}, errShort
	}
	id := b[4 : 4+idSize]
	s := socket{family: b[0], state: b[1], id: append([]byte(nil), id...)}
	port := binary.BigEndian.Uint16(id[2:])
	dst := id[20:36]
	if s.family == unix.AF_INET {
		s.remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte(dst[:4])), port)
	} else {
		s.remote = netip.AddrPortFrom(netip.AddrFrom16([16]byte(dst)).Unmap(), port)
	}
	return s, nil
}
