package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/uuid"
)

// Names that the product owns.
const (
	// NQNPrefix begins every subsystem NQN that Holdfast makes.
	NQNPrefix = "nqn.2026-11.io.holdfast"
	// HostNQNPrefix is the UUID-based form of NVMe Base 2.0, section 4.5.
	HostNQNPrefix = "nqn.2014-08.org.nvmexpress:uuid:"
	// DriverName is the name of the CSI driver.
	DriverName = "csi.holdfast.io"
)

// identitySpace is the UUIDv5 name space for host IDs and NGUIDs. Never change
// it: it would give every node another identity.
var identitySpace = uuid.NewSHA1(uuid.NameSpaceDNS, []byte(DriverName))

var nodeIDPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?-[0-9a-f]{8}$`)

// MaxNodeID is the longest node ID in bytes. CSI asks for 256 at most; 192
// leaves room for what others put around it.
const MaxNodeID = 192

// NodeID is the node's name and eight hex digits over machine ID and
// installation, so that a replaced or cloned node of the same name is another
// node. The installation is a random ID that the plugin keeps on the node.
func NodeID(name, machineID, installation string) (string, error) {
	sum := sha256.Sum256([]byte(machineID + "\x00" + installation))
	id := name + "-" + hex.EncodeToString(sum[:4])
	if machineID == "" || installation == "" {
		return "", fmt.Errorf("node %q: machine ID and installation must not be empty: %w", name, ErrInvalid)
	}
	return id, ValidateNodeID(id)
}

// ValidateNodeID checks the form that NodeID makes.
func ValidateNodeID(id string) error {
	if len(id) > MaxNodeID || !nodeIDPattern.MatchString(id) || strings.Contains(id, "..") {
		return fmt.Errorf("node ID %q: want NAME-XXXXXXXX (a DNS subdomain and eight hex digits, at most %d bytes): %w", id, MaxNodeID, ErrInvalid)
	}
	return nil
}

// HostIdentity returns the host NQN and host ID with which a node connects:
// a UUIDv5 over cluster ID and node ID, so that the controller computes the
// same pair with no look-up and two clusters never share one.
func HostIdentity(clusterID, nodeID string) (hostNQN, hostID string) {
	id := uuid.NewSHA1(identitySpace, []byte("host\x00"+clusterID+"\x00"+nodeID)).String()
	return HostNQNPrefix + id, id
}

// NGUID derives the namespace's globally unique ID from volume and generation.
func NGUID(vol uuid.UUID, generation uint64) uuid.UUID {
	return uuid.NewSHA1(identitySpace, fmt.Appendf(nil, "nguid\x00%s\x00%d", vol, generation))
}
