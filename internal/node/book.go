package node

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/holdfast-csi/holdfast/internal/statefile"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// book is the records, in files and in memory: the watch reads all of them all
// the time. What is in memory is in its file.
//
// The records are those of one boot, in a directory of their own: a table, a mount
// and a session end with the boot, and nothing of what they were has to be known
// after it. So no record waits for a disk to flush, and where the directory is in
// memory, as /run is, none waits for a disk at all.
type book struct {
	dir statefile.Dir[Record]

	mu      sync.Mutex
	byID    map[string]Record // guarded by mu; the maps in it are never changed
	changed chan struct{}
	version atomic.Uint64 // grows with every change
}

// bootPrefix begins the names of the directories of the boots.
const bootPrefix = "boot-"

// BootDir is where what one boot has to remember lies in a run directory: the
// records, and in directories below it what belongs to others. Those of earlier
// boots are removed when the node is made.
func BootDir(runDir, bootID string) string { return filepath.Join(runDir, bootPrefix+bootID) }

func openBook(runDir, bootID string) (*book, error) {
	if err := forgetBoots(runDir, bootID); err != nil {
		return nil, err
	}
	dir, err := statefile.OpenVolatile[Record](BootDir(runDir, bootID))
	if err != nil {
		return nil, err
	}
	all, err := dir.All()
	if err != nil {
		return nil, err
	}
	b := &book{dir: dir, byID: map[string]Record{}, changed: make(chan struct{}, 1)}
	for _, r := range all {
		if r.Version != recordVersion {
			return nil, fmt.Errorf("record of volume %q has version %d and this build reads version %d: %w", r.Stage.VolumeID, r.Version, recordVersion, volume.ErrPrecondition)
		}
		b.byID[r.Stage.VolumeID] = r
	}
	return b, nil
}

// forgetBoots removes the records of earlier boots, where runDir outlives one.
func forgetBoots(runDir, bootID string) error {
	entries, err := os.ReadDir(runDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("run directory: %w", err)
	}
	for _, e := range entries {
		if boot, ok := strings.CutPrefix(e.Name(), bootPrefix); ok && boot != bootID {
			if err := os.RemoveAll(filepath.Join(runDir, e.Name())); err != nil {
				return fmt.Errorf("run directory: records of an earlier boot: %w", err)
			}
		}
	}
	return nil
}

// Get returns the record of a volume; volume.ErrNotFound if there is none.
func (b *book) Get(id string) (Record, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.byID[id]
	if !ok {
		return Record{}, fmt.Errorf("record of %s: %w", id, volume.ErrNotFound)
	}
	return r.clone(), nil
}

// All returns every record.
func (b *book) All() []Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Record, 0, len(b.byID))
	for _, r := range b.byID {
		out = append(out, r.clone())
	}
	return out
}

// Put keeps a record. Whoever calls it has the volume's lock; readers do not wait
// for the file.
func (b *book) Put(id string, r Record) error {
	r = r.clone()
	if err := b.dir.Put(id, r); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.byID[id] = r
	b.tell()
	return nil
}

// Delete forgets a record; none is no error. As for Put, the caller has the lock.
func (b *book) Delete(id string) error {
	if err := b.dir.Delete(id); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.byID, id)
	b.tell()
	return nil
}

func (b *book) tell() {
	b.version.Add(1)
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// clone makes the one part of a record that is changed in place the caller's own.
func (r Record) clone() Record {
	if r.Targets = maps.Clone(r.Targets); r.Targets == nil {
		r.Targets = map[string]Target{}
	}
	return r
}
