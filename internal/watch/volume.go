package watch

import (
	"context"

	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/initiator"
)

// Volume is what the watch has to know of one that is staged.
type Volume struct {
	ID       string
	Session  initiator.Session
	Identity initiator.Identity
	// Eager asks for a reconnect delay of one second while the watch is there.
	Eager bool
	// Table guards it; "" if the kernel alone does.
	Table string
	// Generation of its publication: what is remembered of another is not of this.
	Generation uint64
	// Managed volumes have a storage host that can be asked about them.
	Managed bool
	// Unsettled volumes are being staged or unstaged: their table may be missing.
	Unsettled bool
	// Finite asks for a session that gives up soon, if nothing of it is live: the
	// machine is going down.
	Finite bool
	// Ended volumes are no longer kept alive.
	Ended bool
}

// Keeper is what the watch needs of the node's workflows.
type Keeper interface {
	Sessions
	// Volumes returns what is staged now, in the same list until that changes, and
	// Changed delivers when it does.
	Volumes() []Volume
	Changed() <-chan struct{}
	Proof(volumeID string, p guard.Path) guard.Proof
	// IsWithdrawn asks the storage host, which also says where it is now: if that is
	// another address, the volume changes.
	IsWithdrawn(ctx context.Context, volumeID string) (bool, error)
	// End makes a volume's I/O fail from now on, if it is still of the generation.
	End(ctx context.Context, v Volume, why Reason) error
	// KeepClocks replaces the clocks that the next process begins with. It may
	// take as long as the disk does.
	KeepClocks(all map[string]Clock) error
}

// Sessions is what is done to sessions on behalf of their volumes.
type Sessions interface {
	Restore(ctx context.Context, s initiator.Session) error
	Rescan(nqn string) error
	// Retire takes controllers at addresses away that no volume wants any more.
	Retire(ctx context.Context, nqn string) error
	// Drop takes the controllers of a dead session down whose volumes all wait in
	// tables: what was sent to them comes back there.
	Drop(ctx context.Context, nqn string) error
}

// Reason is why waiting ends.
type Reason string

// The reasons.
const (
	Withdrawn Reason = "withdrawn" // it is another's, and the grace is over
	Expired   Reason = "expired"   // ctrlLossTmo is over
	// again: it has ended, and may have got stuck. What has not ended goes on.
	Again Reason = "again"
)

// Guards are the tables; *guard.Guards is the real one.
type Guards interface {
	List() (map[string]uint32, error)
	State(name string) (guard.State, error)
	Feed(name string, p guard.Path, readOnly bool, proof guard.Proof) error
	Hold(name string) error
	Remove(ctx context.Context, name string) error
}
