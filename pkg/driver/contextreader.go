package driver

import (
	"fmt"
	"strconv"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// maxNSID keeps clear of 2^31: from there on sysfs shows a negative number
// (measured on Linux 6.12).
const maxNSID = 1<<31 - 1

// contextReader reads typed values out of a string map and keeps the first
// error, so that a long list of fields reads as a list.
type contextReader struct {
	m   map[string]string
	err error
}

func (r *contextReader) fail(key, rule string) {
	if r.err == nil {
		r.err = fmt.Errorf("key %s: value %q: %s: %w", key, r.m[key], rule, volume.ErrInvalid)
	}
}

func (r *contextReader) text(key string) string {
	v := r.m[key]
	if v == "" {
		r.fail(key, "must not be empty")
	}
	return v
}

func (r *contextReader) number(key string, lo, hi uint64) uint64 {
	v, err := strconv.ParseUint(r.m[key], 10, 64)
	if err != nil || v < lo || v > hi {
		r.fail(key, fmt.Sprintf("want a number from %d to %d", lo, hi))
		return 0
	}
	return v
}

func (r *contextReader) uuid(key string) uuid.UUID {
	u, err := volume.ParseUUID(r.m[key])
	if err != nil {
		r.fail(key, "want a UUID of 36 lower-case characters")
	}
	return u
}

// optionalNumber is number, or 0 if the key is not there.
func (r *contextReader) optionalNumber(key string, lo, hi uint64) uint64 {
	if _, ok := r.m[key]; !ok {
		return 0
	}
	return r.number(key, lo, hi)
}

// optionalUUID is uuid, or the nil UUID if the key is not there.
func (r *contextReader) optionalUUID(key string) uuid.UUID {
	if _, ok := r.m[key]; !ok {
		return uuid.Nil
	}
	return r.uuid(key)
}

// flag reads "true" or "false"; absent is false.
func (r *contextReader) flag(key string) bool {
	switch r.m[key] {
	case "true":
		return true
	case "", "false":
		return false
	default:
		r.fail(key, `want "true" or "false"`)
		return false
	}
}
