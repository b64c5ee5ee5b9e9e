// Package gate holds back new TCP connections to chosen local ports.
//
// A host that connects to a storage target which is listening but not fully
// configured is told that the volume does not exist, and may give up for good.
// A host whose first packet is lost simply tries again. So the packets that
// open a connection (SYN without ACK) are dropped, never rejected, until
// everything behind the port is in place.
//
// The gate lives in the kernel: it stays as it is when the process ends, and
// goes away with a reboot. Connections that exist when a port is closed go on,
// and so does one whose first packet had already been accepted.
//
// It is not a firewall: it does not look at addresses, it grants nothing that
// other rules deny, and it keeps nobody out for good. It does not touch any
// table but its own, and other tables cannot undo its drops.
package gate

// Gate closes and opens TCP ports of this network namespace. Its methods may
// be called concurrently.
type Gate interface {
	// Close drops new connections to the ports from the moment it returns nil.
	// Closing a closed port is fine. After an error, any of them may be open
	// or closed.
	Close(ports ...uint16) error
	// Open lets connections through again. Opening an open port is fine.
	Open(ports ...uint16) error
	// Closed returns the ports that are closed, in order.
	Closed() ([]uint16, error)
}
