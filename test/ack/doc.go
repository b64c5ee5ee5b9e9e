// Package ack is a writer that remembers what was acknowledged, and a reader
// that checks it byte for byte. Each block carries its own place, the sequence
// number of its write and a checksum, so that a lost, torn, misplaced or stale
// block is told from a right one.
//
// It knows nothing of what lies under the path it is given.
package ack
