package volume

import (
	"time"

	"github.com/google/uuid"
)

// Volume is a run of bytes in a pool, under a UUID that never changes.
type Volume struct {
	UUID uuid.UUID
	// Name is the name that CreateVolume was called with; unique per storage host.
	Name string
	Pool string
	// SizeBytes is a multiple of BlockSize.
	SizeBytes int64
	// BlockSize is the logical block size in bytes, fixed at creation.
	BlockSize int
	Created   time.Time
	// Formatting is set from before mkfs until after it, always before the
	// first mount. While it stands the volume was never mounted and may be
	// formatted again, on any node.
	Formatting bool
}

// CreateRequest asks for a volume. The size chosen is the smallest that is at
// least RequiredBytes and fits the pool's granularity; LimitBytes 0 is no limit.
type CreateRequest struct {
	Name          string
	Pool          string // "" lets the host choose: allowed when it has one pool, or the one with most room
	RequiredBytes int64
	LimitBytes    int64
}

// Publication is the right of one node to one volume. Published again it comes
// back unchanged; the generation grows only after a completed unpublish.
type Publication struct {
	Volume     uuid.UUID
	Node       string // node ID
	Generation uint64
	// SubsystemNQN is the session's: one subsystem per node, pool and profile.
	SubsystemNQN string
	// NSID is never used twice in one subsystem: it is the fence.
	NSID uint32
	// NGUID is derived from volume UUID and generation: it is the check.
	NGUID     uuid.UUID
	SizeBytes int64
	BlockSize int
	// Portals are the host:port pairs of the pool, at least one.
	Portals []string
	// Token proves to the agent that its bearer was given this publication.
	Token string
}

// PublishRequest asks for a publication.
type PublishRequest struct {
	Volume  uuid.UUID
	Node    string
	HostNQN string
	HostID  string
	// Profile is the canonical text of the connection options (see
	// pkg/driver). Publications of one node and pool with the same profile
	// share a session.
	Profile string
}

// PublicationRef is how a node names its own publication to the agent.
type PublicationRef struct {
	Volume     uuid.UUID
	Node       string
	Generation uint64
	Token      string
}

// PublicationStatus is what the agent answers a node about its publication.
type PublicationStatus struct {
	// Ended is said only positively: this generation was unpublished or a
	// newer one exists.
	Ended bool
	// Formatting: a format was begun and not finished; never mounted since.
	Formatting bool
	// Blank: the pool's allocation map, read after a sync, has no block at all.
	Blank bool
	// Portals are the host:port pairs of the pool now: it may have moved since the
	// publication was handed out. Nil if it has ended, or the agent is too old to say.
	Portals []string
}

// Pool is what the agent says of one of its pools.
type Pool struct {
	Name    string
	Portals []string
	// TotalBytes and AvailableBytes count what may still be promised to
	// volumes: the reserve and the sum of existing sizes are taken off.
	TotalBytes     int64
	AvailableBytes int64
	BlockSize      int
	// Problem is why the pool does not serve ("" = it does).
	Problem string
	// Warnings do not keep the pool from serving.
	Warnings []string
}

// HostInfo is what the agent says of its storage host.
type HostInfo struct {
	Installation string // random ID made by `holdfast target init`
	Version      string
	Pools        []Pool
	// Retired is when the host was declared gone for good; zero: it is in service.
	Retired time.Time
}
