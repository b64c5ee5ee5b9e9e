package store

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// States of a volume. A volume is "creating" from before its file is made and
// "deleting" from before it is removed, so that a crash leaves a record.
const (
	VolumeCreating = "creating"
	VolumeReady    = "ready"
	VolumeDeleting = "deleting"
)

// States of a publication. "ending" stands from before the fence until after it.
const (
	PublicationPublished = "published"
	PublicationEnding    = "ending"
)

// Volume is what is recorded of a volume.
type Volume struct {
	UUID uuid.UUID
	// Name is unique in the database.
	Name string
	Pool string
	// SizeBytes is a multiple of BlockSize, which is in bytes too.
	SizeBytes int64
	BlockSize int
	Created   time.Time
	State     string
	// Formatting stands from before mkfs until after it.
	Formatting bool
	// LastGeneration is the highest generation ever given to a publication of
	// this volume; the next one is one more.
	LastGeneration uint64
}

// Publication is the right of one node to one volume.
type Publication struct {
	Volume       uuid.UUID
	Node         string
	Generation   uint64
	SubsystemNQN string
	NSID         uint32
	NGUID        uuid.UUID
	State        string
}

// Session is one subsystem: that of a node, a pool and a connection profile.
type Session struct {
	NQN     string
	Node    string
	HostNQN string
	HostID  string
	Pool    string
	Profile string
	Serial  string
	// NextNSID only grows: an NSID is never used twice in one subsystem.
	NextNSID uint32
}

func (v Volume) label() string { return fmt.Sprintf("volume %s (%q)", v.UUID, v.Name) }

func (v Volume) validate() error {
	rule := ""
	switch {
	case v.UUID == uuid.Nil:
		rule = "the UUID must not be zero"
	case v.Name == "":
		rule = "the name must not be empty"
	case v.State != VolumeCreating && v.State != VolumeReady && v.State != VolumeDeleting:
		rule = fmt.Sprintf("unknown state %q", v.State)
	default:
		return nil
	}
	return fmt.Errorf("%s: %s: %w", v.label(), rule, volume.ErrInvalid)
}

func (p Publication) label() string { return publicationLabel(p.Volume, p.Node) }

func publicationLabel(vol uuid.UUID, node string) string {
	return fmt.Sprintf("publication of volume %s to node %q", vol, node)
}

func (p Publication) validate() error {
	rule := ""
	switch {
	case p.Volume == uuid.Nil:
		rule = "the volume must not be zero"
	case p.Node == "":
		rule = "the node must not be empty"
	case p.SubsystemNQN == "" || strings.Contains(p.SubsystemNQN, sep):
		rule = fmt.Sprintf("subsystem NQN %q must not be empty nor hold a NUL", p.SubsystemNQN)
	case p.NSID == 0:
		rule = "NSID 0 is no namespace"
	case p.State != PublicationPublished && p.State != PublicationEnding:
		rule = fmt.Sprintf("unknown state %q", p.State)
	default:
		return nil
	}
	return fmt.Errorf("%s: %s: %w", p.label(), rule, volume.ErrInvalid)
}

func (s Session) label() string { return fmt.Sprintf("session %q", s.NQN) }

func (s Session) validate() error {
	if s.NQN == "" {
		return fmt.Errorf("%s: the NQN must not be empty: %w", s.label(), volume.ErrInvalid)
	}
	for _, text := range []string{s.NQN, s.Node, s.Pool, s.Profile} {
		if strings.Contains(text, sep) {
			return fmt.Errorf("%s: %q must not hold a NUL: %w", s.label(), text, volume.ErrInvalid)
		}
	}
	return nil
}

// sep separates the parts of a key of free texts; no part may hold it.
const sep = "\x00"

// Volumes are ordered by UUID: the text of a UUID sorts like its bytes.
func volumeKey(id uuid.UUID) []byte { return []byte(id.String()) }

// publicationKey begins with the volume, whose length is fixed.
func publicationKey(vol uuid.UUID, node string) []byte {
	return []byte(publicationPrefix(vol) + node)
}

func publicationPrefix(vol uuid.UUID) string { return vol.String() + "/" }

// namespaceKey orders the publications of a subsystem by NSID and gives each
// NSID room for one.
func namespaceKey(nqn string, nsid uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte(nqn+sep), nsid)
}

func sessionPrefix(node, pool, profile string) string {
	return node + sep + pool + sep + profile + sep
}
