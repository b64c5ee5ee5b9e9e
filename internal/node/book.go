package node

import (
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/holdfast-csi/holdfast/internal/statefile"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// book is the records, on disk and in memory: the watch reads all of them all
// the time. What is in memory is on disk.
type book struct {
	dir statefile.Dir[Record]

	mu      sync.Mutex
	byID    map[string]Record // guarded by mu; the maps in it are never changed
	changed chan struct{}
	version atomic.Uint64 // grows with every change
}

func openBook(stateDir string) (*book, error) {
	dir, err := statefile.Open[Record](filepath.Join(stateDir, "volumes"))
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

// Put keeps a record. It is on disk when Put returns nil.
func (b *book) Put(id string, r Record) error {
	r = r.clone()
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.dir.Put(id, r); err != nil {
		return err
	}
	b.byID[id] = r
	b.tell()
	return nil
}

// Delete forgets a record; none is no error.
func (b *book) Delete(id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.dir.Delete(id); err != nil {
		return err
	}
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
