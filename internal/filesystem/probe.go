package filesystem

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"
)

// Kind is what a device was seen to hold.
type Kind string

// The kinds that Probe tells apart. Other is everything that is neither ours
// to mount nor blank, however little it is.
const (
	Blank Kind = "blank"
	Ext4  Kind = "ext4"
	XFS   Kind = "xfs"
	Other Kind = "other"
)

// Content is the answer of Probe.
type Content struct {
	Kind Kind
	// Detail says in words what was found, for messages ("a LUKS header", …).
	Detail string
	// NeedsCheck: the file system itself says that it found errors.
	NeedsCheck bool
	// DeclaredBytes is the size that the superblock claims, 0 if unknown.
	DeclaredBytes int64
}

// Regions read by Probe, in bytes. The head holds every superblock and label
// that blkid knows but the ones at the end of the device: ext4 at 1 KiB, btrfs
// at 64 KiB, ZFS labels in the first 512 KiB, LVM, LUKS and partition tables
// in the first sectors. The tail holds the GPT backup (last 33 sectors), md
// 0.90/1.0 (last 128 KiB) and ZFS labels (last 512 KiB).
const (
	headBytes = 1 << 20
	tailBytes = 512 << 10
	// probeAlign satisfies O_DIRECT for logical blocks up to 4096 bytes.
	probeAlign = 4096
)

// Probe reads the beginning and the end of a device of size bytes with direct
// I/O, so that no stale cache answers for the disk. A read that fails or comes
// back short is an error, never "blank". The read cannot be cancelled while
// the device hangs: when ctx ends Probe returns and leaves it behind.
func Probe(ctx context.Context, device string, size int64) (Content, error) {
	type answer struct {
		c   Content
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		c, err := probe(device, size)
		ch <- answer{c, err}
	}()
	select {
	case a := <-ch:
		return a.c, a.err
	case <-ctx.Done():
		return Content{}, fmt.Errorf("probe %s: no answer from the device: %w", device, ctx.Err())
	}
}

func probe(device string, size int64) (_ Content, err error) {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return Content{}, fmt.Errorf("probe: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return ProbeReader(f, size)
}

// ProbeReader is Probe on anything that can be read at an offset. It reads in
// multiples of 4096 bytes from buffers aligned to 4096.
func ProbeReader(r io.ReaderAt, size int64) (Content, error) {
	if size < probeAlign {
		return Content{}, fmt.Errorf("probe: device of %d bytes is smaller than %d", size, probeAlign)
	}
	size -= size % probeAlign
	head, err := readFull(r, 0, min(headBytes, size))
	if err != nil {
		return Content{}, err
	}
	if c, found := classify(head); found {
		return c, nil
	}
	tail, err := readFull(r, max(size-tailBytes, 0), min(tailBytes, size))
	if err != nil {
		return Content{}, err
	}
	if at, ok := firstNonZero(tail); ok {
		return Content{Kind: Other, Detail: fmt.Sprintf("bytes that are not zero at offset %d, near the end", max(size-tailBytes, 0)+int64(at))}, nil
	}
	return Content{Kind: Blank, Detail: "zeros at both ends"}, nil
}

// readFull reads n bytes at off, n a multiple of the alignment.
func readFull(r io.ReaderAt, off, n int64) ([]byte, error) {
	buf := alignedBuffer(int(n))
	got, err := r.ReadAt(buf, off)
	if int64(got) == n {
		return buf, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("read %d bytes at %d (got %d): %w", n, off, got, err)
}

type signature struct {
	offset int
	magic  string
	detail string
}

// signatures of things that are not ours, for the words of a refusal only: a
// device that matches none of them and is not zero is refused all the same.
// Offsets and magics are those of libblkid's probes.
var signatures = []signature{
	{0, "LUKS\xba\xbe", "a LUKS header"},
	{0x218, "LVM2 001", "an LVM physical volume"},
	{0x018, "LVM2 001", "an LVM physical volume"},
	{512, "LABELONE", "an LVM label"},
	{0x10040, "_BHRfS_M", "a btrfs file system"},
	{4096 - 10, "SWAPSPACE2", "swap space"},
	{0, "\xfc\x4e\x2b\xa9", "an md RAID member"},
	{512, "EFI PART", "a GPT partition table"},
	{3, "NTFS    ", "an NTFS file system"},
	{54, "FAT", "a FAT file system"},
	{82, "FAT32", "a FAT file system"},
	{510, "\x55\xaa", "a partition table or boot sector"},
}

// Superblock fields, from Documentation/filesystems/ext4/super.rst and
// xfs_format.h of Linux 6.12.
const (
	ext4Super       = 1024
	ext4Magic       = 0xEF53
	ext4MagicAt     = 0x38
	ext4StateAt     = 0x3A
	ext4StateError  = 0x2
	ext4CompatAt    = 0x5C
	ext4IncompatAt  = 0x60
	ext4HasJournal  = 0x4
	ext4Extents     = 0x40
	ext4JournalDev  = 0x8
	ext4BlocksLoAt  = 0x4
	ext4BlockSizeAt = 0x18
	ext4BlocksHiAt  = 0x150
	xfsMagic        = "XFSB"
	xfsBlockSizeAt  = 4
	xfsBlocksAt     = 8
)

// classify looks at the head of a device; found is false if it is all zero.
func classify(head []byte) (c Content, found bool) {
	if string(head[:len(xfsMagic)]) == xfsMagic {
		bytesPerBlock := uint64(binary.BigEndian.Uint32(head[xfsBlockSizeAt:]))
		blocks := binary.BigEndian.Uint64(head[xfsBlocksAt:])
		return Content{Kind: XFS, Detail: "an XFS file system", DeclaredBytes: declared(blocks, bytesPerBlock)}, true
	}
	if c, ok := classifyExt(head[ext4Super:]); ok && !hasPartitionTable(head) {
		return c, true
	}
	for _, s := range signatures {
		if bytes.HasPrefix(head[min(s.offset, len(head)):], []byte(s.magic)) {
			return Content{Kind: Other, Detail: s.detail}, true
		}
	}
	if at, ok := firstNonZero(head); ok {
		return Content{Kind: Other, Detail: fmt.Sprintf("bytes that are not zero at offset %d", at)}, true
	}
	return Content{}, false
}

func classifyExt(sb []byte) (Content, bool) {
	le := binary.LittleEndian
	if le.Uint16(sb[ext4MagicAt:]) != ext4Magic {
		return Content{}, false
	}
	compat, incompat := le.Uint32(sb[ext4CompatAt:]), le.Uint32(sb[ext4IncompatAt:])
	if incompat&ext4JournalDev != 0 {
		return Content{Kind: Other, Detail: "an external ext4 journal"}, true
	}
	if compat&ext4HasJournal == 0 && incompat&ext4Extents == 0 {
		return Content{Kind: Other, Detail: "an ext2 file system"}, true
	}
	logBlock := le.Uint32(sb[ext4BlockSizeAt:])
	if logBlock > 6 { // 64 KiB, the largest block that ext4 has
		return Content{Kind: Other, Detail: "a damaged ext4 superblock"}, true
	}
	blocks := uint64(le.Uint32(sb[ext4BlocksLoAt:])) | uint64(le.Uint32(sb[ext4BlocksHiAt:]))<<32
	return Content{
		Kind: Ext4, Detail: "an ext4 file system",
		NeedsCheck:    le.Uint16(sb[ext4StateAt:])&ext4StateError != 0,
		DeclaredBytes: declared(blocks, 1024<<logBlock),
	}, true
}

// declared multiplies without wrapping round: a damaged superblock may claim
// anything, and the largest number is as refused as any that is too large.
func declared(blocks, bytesPerBlock uint64) int64 {
	hi, lo := bits.Mul64(blocks, bytesPerBlock)
	if hi != 0 || lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(lo)
}

// hasPartitionTable guards against an ext4 superblock left over in front of a
// partition table that somebody made later.
func hasPartitionTable(head []byte) bool {
	return string(head[512:520]) == "EFI PART"
}

func firstNonZero(b []byte) (int, bool) {
	for i := 0; i < len(b); i += probeAlign {
		chunk := b[i:min(i+probeAlign, len(b))]
		if bytes.Equal(chunk, zeroChunk[:len(chunk)]) {
			continue
		}
		for j, v := range chunk {
			if v != 0 {
				return i + j, true
			}
		}
	}
	return 0, false
}

var zeroChunk [probeAlign]byte

// AllZero reads the whole device and says whether every byte is zero: the only
// proof of blankness for a volume whose storage host cannot be asked. It stops
// when ctx ends, between reads.
func AllZero(ctx context.Context, r io.ReaderAt, size int64) (bool, error) {
	const step = 4 << 20
	for off := int64(0); off < size; off += step {
		if err := ctx.Err(); err != nil {
			return false, fmt.Errorf("reading the whole device, at %d of %d bytes: %w", off, size, err)
		}
		b, err := readFull(r, off, min(step, size-off))
		if err != nil {
			return false, err
		}
		if _, found := firstNonZero(b); found {
			return false, nil
		}
	}
	return true, nil
}
