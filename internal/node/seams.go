package node

import (
	"context"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// fabric is the host side of NVMe over Fabrics; *initiator.Host is the real one.
type fabric interface {
	EnsureSession(ctx context.Context, s initiator.Session) error
	WaitNamespace(ctx context.Context, id initiator.Identity) (nvmesysfs.Namespace, string, error)
	Disconnect(ctx context.Context, nqn string) error
	Restore(ctx context.Context, s initiator.Session) error
	Retire(ctx context.Context, s initiator.Session) error
	nudger
}

// nudger makes the kernel do what it would do later or not at all, and changes no
// session.
type nudger interface {
	Rescan(nqn string) error
	// Limit makes the kernel give up a session that is away for so many seconds.
	Limit(nqn string, seconds int) error
	Own()
}

// observer reads what the kernel shows of a session; nvmesysfs.FS is the real one.
type observer interface {
	// SessionOf reads a session with the namespace of one NSID; 0 is all of them.
	SessionOf(nqn string, nsid uint32) (nvmesysfs.Snapshot, error)
	// Disk reads one disk by its name.
	Disk(name string) (nvmesysfs.Namespace, error)
	// SetDelayedRemoval says how long a disk outlives its last path; false
	// where the kernel cannot.
	SetDelayedRemoval(disk string, seconds int) (bool, error)
	// Inflight is how many reads and writes of a disk wait or are under way.
	Inflight(disk string) (int, error)
}

// mounter changes and reads the mount table.
type mounter interface {
	Mounts() ([]filesystem.Mount, error)
	MountDevice(device, path string, kind filesystem.Kind, options []string) error
	Bind(source, target string, readOnly bool) error
	Unmount(path string) error
}

// disk deals with the content of a device.
type disk interface {
	Probe(ctx context.Context, device string, size int64) (filesystem.Content, error)
	AllZero(ctx context.Context, device string, size int64) (bool, error)
	Format(ctx context.Context, device string, kind filesystem.Kind, options []string) error
	Check(ctx context.Context, device string, kind filesystem.Kind) error
}

// guards hold a volume's I/O while its device is away; *guard.Guards is the real one.
type guards interface {
	Ensure(ctx context.Context, name string, p guard.Path, readOnly bool, proof guard.Proof) (guard.Device, error)
	State(name string) (guard.State, error)
	GiveUp(name string) error
	// StopQueueing leaves the path, and fails I/O once it is lost.
	StopQueueing(name string) error
	Remove(ctx context.Context, name string) error
}

// flusher makes sure that what was written has arrived.
type flusher interface {
	Sync(path string) error
	FlushDevice(device string) error
	SuperblockGone(kind filesystem.Kind, disk string) (bool, error)
	// Errors grow when a mounted file system has stopped.
	Errors(kind filesystem.Kind, disk, path string) (int, error)
	Stat(path string) (filesystem.Usage, error)
}

// Authorities finds the agent of a storage host by the host's name.
type Authorities func(host string) (volume.FormatAuthority, error)
