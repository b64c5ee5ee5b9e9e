package ack

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

var zeros = make([]byte, BlockSize)

// dumpUnit is what is read at once: each read of a disk may be a round trip.
const dumpUnit = 256 << 10

// Dump copies the first blocks of a file or device to w, or all if limit is 0,
// past the page cache and without its blocks of zeros. A file that ends within a
// block is filled up with zeros.
func Dump(w io.Writer, path string, limit uint64) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	out := bufio.NewWriterSize(w, 64<<10)
	if err := dump(out, f, limit); err != nil {
		return err
	}
	return out.Flush()
}

// dump writes each block that is not zero behind its number, and after the last
// the number of all blocks.
func dump(w io.Writer, r io.Reader, limit uint64) error {
	buf := aligned(dumpUnit)
	le := binary.LittleEndian
	for at := uint64(0); ; {
		n, err := io.ReadFull(r, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		clear(buf[n:])
		for b := buf[:(n+BlockSize-1)/BlockSize*BlockSize]; len(b) > 0 && (limit == 0 || at < limit); b = b[BlockSize:] {
			if !bytes.Equal(b[:BlockSize], zeros) {
				if err := errors.Join(binary.Write(w, le, at), binary.Write(w, le, b[:BlockSize])); err != nil {
					return err
				}
			}
			at++
		}
		if err != nil || at == limit && limit > 0 {
			return binary.Write(w, le, at)
		}
	}
}

// Undump is the content that was dumped.
func Undump(b []byte) ([]byte, error) {
	var out []byte
	for len(b) > 8 {
		at := binary.LittleEndian.Uint64(b)
		if at*BlockSize < uint64(len(out)) || at > 1<<30 || len(b) < 8+BlockSize {
			return nil, fmt.Errorf("a dump with block %d after %d bytes and %d bytes left", at, len(out), len(b))
		}
		out = append(out, make([]byte, at*BlockSize-uint64(len(out)))...)
		out = append(out, b[8:8+BlockSize]...)
		b = b[8+BlockSize:]
	}
	if len(b) != 8 {
		return nil, fmt.Errorf("a dump without its end")
	}
	size := binary.LittleEndian.Uint64(b) * BlockSize
	if size < uint64(len(out)) || size > 1<<40 {
		return nil, fmt.Errorf("a dump of %d bytes that ends at %d", len(out), size)
	}
	return append(out, make([]byte, size-uint64(len(out)))...), nil
}
