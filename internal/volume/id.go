package volume

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/google/uuid"
)

// ID is the CSI volume handle of a volume that lives in a pool of one of our
// storage hosts, written HOST:UUID. The host is in the handle because the
// controller keeps no state: the handle alone must say whom to ask.
type ID struct {
	Host string
	UUID uuid.UUID
}

// MaxHostName is the longest name of a storage host, in bytes: that of a DNS
// label (RFC 1123), so that HOST:UUID stays below the 128 bytes that CSI
// guarantees for a volume ID.
const MaxHostName = 63

var dnsLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// String returns HOST:UUID.
func (id ID) String() string { return id.Host + ":" + id.UUID.String() }

// ParseID reads a handle made by ID.String. Any other text is ErrInvalid, also
// a UUID in another of its spellings: one volume has one handle.
func ParseID(s string) (ID, error) {
	host, rest, ok := strings.Cut(s, ":")
	if !ok {
		return ID{}, fmt.Errorf("volume ID %q: want HOST:UUID: %w", s, ErrInvalid)
	}
	if err := ValidateName("storage host", host, MaxHostName); err != nil {
		return ID{}, fmt.Errorf("volume ID %q: %w", s, err)
	}
	u, err := ParseUUID(rest)
	if err != nil {
		return ID{}, fmt.Errorf("volume ID %q: %w", s, err)
	}
	return ID{Host: host, UUID: u}, nil
}

// ParseUUID reads the 36-character lower-case form only; the nil UUID is
// refused because the kernel takes it for "no UUID".
func ParseUUID(s string) (uuid.UUID, error) {
	u, err := uuid.Parse(s)
	if err != nil || u.String() != s || u == uuid.Nil {
		return uuid.Nil, fmt.Errorf("UUID %q: want 36 lower-case characters and not all zero: %w", s, ErrInvalid)
	}
	return u, nil
}

// ValidateName checks a name that becomes part of paths and NQNs: a DNS label
// (RFC 1123) of at most maxLen bytes. What names the kind of object in the error.
func ValidateName(what, name string, maxLen int) error {
	if len(name) > maxLen || !dnsLabel.MatchString(name) {
		return fmt.Errorf("%s name %q: want at most %d lower-case letters, digits and '-', beginning and ending with a letter or digit: %w",
			what, name, maxLen, ErrInvalid)
	}
	return nil
}
