// Package pool says what a storage host needs of the place where the bytes of
// its volumes lie. One kind exists: sparse files in a directory, package
// pool/file.
//
// It does not know which volumes ought to exist, nor what was promised to
// them: the records are internal/store's, and the sum of sizes against the
// capacity is the caller's. It exports nothing; that is the kernel's nvmet.
package pool

import (
	"context"

	"github.com/google/uuid"
)

// Pool holds the bytes of volumes. Every method may be called again after any
// error, and by several goroutines; a second Create or Delete of one volume
// while the first is under way is volume.ErrBusy.
type Pool interface {
	// Create makes a sparse volume of size bytes, a multiple of the block
	// size. It is durable on return. One of the same size that is there
	// already is success; of another size, volume.ErrExists. What the pool
	// could never hold is volume.ErrNoSpace.
	Create(ctx context.Context, id uuid.UUID, size int64) error
	// Delete removes the volume, durably. Nothing there is success.
	Delete(ctx context.Context, id uuid.UUID) error
	// Path is what nvmet exports. It says nothing about existence.
	Path(id uuid.UUID) string
	// Inspect returns volume.ErrNotFound if there is no such volume.
	Inspect(ctx context.Context, id uuid.UUID) (Info, error)
	// Blank reports whether it is proven that nothing was ever written. False
	// means only that there is no proof.
	Blank(ctx context.Context, id uuid.UUID) (bool, error)
	// List returns the volumes that are there, ordered by UUID.
	List(ctx context.Context) ([]uuid.UUID, error)
	Capacity(ctx context.Context) (Capacity, error)
}

// Info describes one volume.
type Info struct {
	// SizeBytes is what a node sees.
	SizeBytes int64
	// AllocatedBytes is what the volume takes of the pool now.
	AllocatedBytes int64
}

// Capacity describes the pool as a whole. TotalBytes − ReserveBytes −
// ForeignBytes − the sum of all volume sizes may still be promised; that can
// be negative.
type Capacity struct {
	// TotalBytes is the size of the file system.
	TotalBytes int64
	// ReserveBytes is kept free for metadata and for the administrator.
	ReserveBytes int64
	// ForeignBytes is used by something other than volumes of this pool,
	// metadata included.
	ForeignBytes int64
	// AllocatedBytes is what the volumes of this pool take now.
	AllocatedBytes int64
	// FileSystem is the same for pools that share their space.
	FileSystem uint64
	// BlockSize is the logical block size in bytes that nvmet shows for a
	// volume of this pool.
	BlockSize int
	// Warnings do not keep the pool from serving.
	Warnings []string
}
