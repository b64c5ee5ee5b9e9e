package nvmet

import (
	"errors"
	"fmt"
	"syscall"
)

// Relink drops all connections to a subsystem on one port, on every kernel: it
// takes the subsystem off the port, which deletes its controllers and ends
// their I/O in flight, and puts it back. A subsystem that is not on the port is
// left as it is.
//
// A host that connects in between is told "do not retry", so the port must be
// closed to new connections meanwhile (package gate), and stay closed if there
// is an error.
func Relink(t Tree, nqn string, port uint16) error {
	if err := checkNQN(nqn); err != nil {
		return err
	}
	path := portLinkPath(port, nqn)
	err := t.Unlink(path)
	if gone(err) {
		return nil
	}
	if err == nil {
		err = t.Symlink(subsystemPath(nqn), path)
	}
	if err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("disconnect hosts of subsystem %s on port %d: %w", nqn, port, err)
	}
	return nil
}
