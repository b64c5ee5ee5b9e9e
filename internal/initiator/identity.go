package initiator

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Identity is what a namespace must be to be taken for the volume. Zero fields
// are not checked; NSID, UUID and NGUID cannot all be zero.
type Identity struct {
	NQN         string
	NSID        uint32
	UUID, NGUID uuid.UUID
	// SizeBytes is the least size: a volume may have grown since it was
	// published, and the publish context still has the old size. It never shrinks.
	SizeBytes int64
	BlockSize int // logical, bytes
}

func (id Identity) validate() error {
	if id.NSID == 0 && id.UUID == uuid.Nil && id.NGUID == uuid.Nil {
		return fmt.Errorf("session %s: which namespace: NSID, UUID or NGUID is needed: %w", id.NQN, volume.ErrInvalid)
	}
	return nil
}

func (id Identity) String() string {
	var parts []string
	add := func(set bool, format string, v any) {
		if set {
			parts = append(parts, fmt.Sprintf(format, v))
		}
	}
	add(id.NSID != 0, "NSID %d", id.NSID)
	add(id.UUID != uuid.Nil, "UUID %s", id.UUID)
	add(id.NGUID != uuid.Nil, "NGUID %s", id.NGUID)
	return "namespace of " + id.NQN + " with " + strings.Join(parts, ", ")
}

// IdentityError says that a namespace is where the volume should be and is another one.
// Nothing of it may be used.
type IdentityError struct {
	Disk  string
	Wrong []string // "WHAT: want X, found Y"
}

func (e *IdentityError) Error() string {
	return fmt.Sprintf("%s is not the volume: %s", e.Disk, strings.Join(e.Wrong, "; "))
}

// Unwrap makes it a state that repeating cannot mend.
func (e *IdentityError) Unwrap() error { return volume.ErrPrecondition }

// Retryable is false: another volume does not become the right one.
func (e *IdentityError) Retryable() bool { return false }

// errAbsent: no namespace of a snapshot claims to be the one that is wanted.
var errAbsent = errors.New("the device did not appear")

// Match finds the namespace of id in a snapshot, by NSID or else by UUID and
// NGUID, and checks all of id: an *IdentityError if it is another one. It is a
// pure function and says nothing about whether a path to it is live.
func Match(state nvmesysfs.Snapshot, id Identity) (nvmesysfs.Namespace, error) {
	var found *nvmesysfs.Namespace
	err := errAbsent
	for i, ns := range state.Namespaces {
		if !id.claims(ns) {
			continue
		}
		if wrong := id.differences(ns); len(wrong) != 0 {
			err = &IdentityError{Disk: ns.Disk, Wrong: wrong}
			continue
		}
		// Without native multipath each controller has a disk of its own for
		// the namespace, and with it a head can outlive its paths.
		if found == nil || len(found.Controllers) == 0 {
			found = &state.Namespaces[i]
		}
	}
	if found != nil {
		return *found, nil
	}
	return nvmesysfs.Namespace{}, err
}

// Check says whether ns is what id wants: an *IdentityError if not. It is a pure
// function and says nothing about whether a path to it is live.
func (id Identity) Check(ns nvmesysfs.Namespace) error {
	wrong := id.differences(ns)
	if ns.NQN != id.NQN {
		wrong = append(wrong, fmt.Sprintf("subsystem: want %s, found %s", id.NQN, ns.NQN))
	}
	if id.NSID != 0 && ns.NSID != id.NSID {
		wrong = append(wrong, fmt.Sprintf("NSID: want %d, found %d", id.NSID, ns.NSID))
	}
	if len(wrong) == 0 {
		return nil
	}
	return &IdentityError{Disk: ns.Disk, Wrong: wrong}
}

// claims says whether ns stands where the volume should be.
func (id Identity) claims(ns nvmesysfs.Namespace) bool {
	if ns.NQN != id.NQN {
		return false
	}
	if id.NSID != 0 {
		return ns.NSID == id.NSID
	}
	return (id.UUID == uuid.Nil || ns.UUID == id.UUID) && (id.NGUID == uuid.Nil || ns.NGUID == id.NGUID)
}

func (id Identity) differences(ns nvmesysfs.Namespace) []string {
	var wrong []string
	check := func(what string, ok bool, want, found any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%s: want %v, found %v", what, want, found))
		}
	}
	check("UUID", id.UUID == uuid.Nil || ns.UUID == id.UUID, id.UUID, ns.UUID)
	check("NGUID", id.NGUID == uuid.Nil || ns.NGUID == id.NGUID, id.NGUID, ns.NGUID)
	check("size in bytes", ns.SizeBytes >= id.SizeBytes, fmt.Sprintf("at least %d", id.SizeBytes), ns.SizeBytes)
	check("logical block size", id.BlockSize == 0 || ns.BlockSize == id.BlockSize, id.BlockSize, ns.BlockSize)
	return wrong
}
