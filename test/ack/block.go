package ack

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// BlockSize is the unit of writing, in bytes; it satisfies O_DIRECT everywhere.
const BlockSize = 4096

const (
	magic      = 0x484f4c4446415354 // "HOLDFAST"
	headerSize = 8 + 8 + 8 + 8
)

// Fill makes the content of block number at, written as number seq by writer.
func Fill(buf []byte, writer, at, seq uint64) {
	le := binary.LittleEndian
	le.PutUint64(buf[0:], magic)
	le.PutUint64(buf[8:], writer)
	le.PutUint64(buf[16:], at)
	le.PutUint64(buf[24:], seq)
	x := writer ^ at<<20 ^ seq*0x9e3779b97f4a7c15
	for i := headerSize; i < BlockSize-4; i += 4 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		le.PutUint32(buf[i:], uint32(x))
	}
	le.PutUint32(buf[BlockSize-4:], crc32.ChecksumIEEE(buf[:BlockSize-4]))
}

// Check reads a block back. It returns the sequence number, 0 for a block of
// zeros, and an error for anything that this writer never wrote there.
func Check(buf []byte, writer, at uint64) (seq uint64, err error) {
	le := binary.LittleEndian
	zero := true
	for _, b := range buf[:BlockSize] {
		if b != 0 {
			zero = false
			break
		}
	}
	switch {
	case zero:
		return 0, nil
	case le.Uint32(buf[BlockSize-4:]) != crc32.ChecksumIEEE(buf[:BlockSize-4]) || le.Uint64(buf) != magic:
		return 0, fmt.Errorf("block %d: torn or foreign content", at)
	case le.Uint64(buf[8:]) != writer:
		return 0, fmt.Errorf("block %d: written by writer %d, not by %d", at, le.Uint64(buf[8:]), writer)
	case le.Uint64(buf[16:]) != at:
		return 0, fmt.Errorf("block %d: holds block %d", at, le.Uint64(buf[16:]))
	}
	return le.Uint64(buf[24:]), nil
}

// Author reads who says to have written a block, whole or torn; false if it
// bears no stamp.
func Author(buf []byte) (writer, seq uint64, stamped bool) {
	le := binary.LittleEndian
	return le.Uint64(buf[8:]), le.Uint64(buf[24:]), le.Uint64(buf) == magic
}
