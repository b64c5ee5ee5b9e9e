package node

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/keylock"
	"github.com/holdfast-csi/holdfast/internal/statefile"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Options are what a Node is made of. All fields are required.
type Options struct {
	// RunDir holds the records of the boot BootID, and outlives the process. It
	// should be in memory.
	RunDir, BootID string
	Fabric         fabric
	Sysfs          observer
	Mounter        mounter
	Disk           disk
	Flusher        flusher
	Guards         guards
	Authorities    Authorities
	Log            *slog.Logger
}

// Node carries out the workflows. Its methods may be called concurrently: calls
// for one volume exclude each other (volume.ErrBusy), stages and unstages that
// share a session wait for each other only where a session is taken down.
type Node struct {
	Options
	records  *book
	clocks   statefile.Dir[map[string]Clock]
	volumes  keylock.Set
	sessions sessionLocks
	formats  slots // by session
	bounded  *filesystem.Bounded
	finite   finite
	unusable unusable
}

// New opens the records of a node.
func New(o Options) (*Node, error) {
	records, err := openBook(o.RunDir, o.BootID)
	if err != nil {
		return nil, err
	}
	kept, err := statefile.OpenVolatile[map[string]Clock](filepath.Join(BootDir(o.RunDir, o.BootID), "clocks"))
	if err != nil {
		return nil, err
	}
	return &Node{Options: o, records: records, clocks: kept, bounded: filesystem.NewBounded()}, nil
}

// Records returns what the node has staged, for the watch and for operators.
func (n *Node) Records() []Record { return n.records.All() }

// Version grows with every change of a record.
func (n *Node) Version() uint64 { return n.records.version.Load() }

// Changed delivers after records have changed; one who listens is enough.
func (n *Node) Changed() <-chan struct{} { return n.records.changed }

// validatePath refuses paths that are not plain and absolute: they come from
// outside and are mounted on.
func validatePath(what, path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" || strings.ContainsRune(path, 0) {
		return fmt.Errorf("%s %q: want a clean absolute path: %w", what, path, volume.ErrInvalid)
	}
	return nil
}

func (r StageRequest) validate() error {
	if r.VolumeID == "" {
		return fmt.Errorf("volume ID is empty: %w", volume.ErrInvalid)
	}
	if err := validatePath("staging path", r.StagingPath); err != nil {
		return err
	}
	if r.FSType == "" {
		return nil
	}
	if _, err := filesystem.ParseKind(r.FSType); err != nil {
		return err
	}
	return filesystem.ValidateOptions(r.MountOptions)
}
