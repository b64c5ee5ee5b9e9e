package filesystem

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
)

const diskBytes = 4 << 20

// image returns a device of zeros with texts written at offsets.
func image(size int, at map[int]string) []byte {
	b := make([]byte, size)
	for offset, text := range at {
		if offset < 0 {
			offset += size
		}
		copy(b[offset:], text)
	}
	return b
}

// ext4Image has the fields of a superblock that are looked at.
func ext4Image(change func(sb []byte)) []byte {
	b := make([]byte, diskBytes)
	sb := b[ext4Super:]
	le := binary.LittleEndian
	le.PutUint16(sb[ext4MagicAt:], ext4Magic)
	le.PutUint16(sb[ext4StateAt:], 1)
	le.PutUint32(sb[ext4CompatAt:], ext4HasJournal)
	le.PutUint32(sb[ext4IncompatAt:], ext4Extents)
	le.PutUint32(sb[ext4BlockSizeAt:], 2)
	le.PutUint32(sb[ext4BlocksLoAt:], diskBytes/4096)
	if change != nil {
		change(sb)
	}
	return b
}

func xfsImage(blockSize uint32, blocks uint64) []byte {
	b := image(diskBytes, map[int]string{0: "XFSB"})
	binary.BigEndian.PutUint32(b[xfsBlockSizeAt:], blockSize)
	binary.BigEndian.PutUint64(b[xfsBlocksAt:], blocks)
	return b
}

func TestProbeReader(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	for name, c := range map[string]struct {
		image []byte
		want  Content
	}{
		"zeros":                 {image(diskBytes, nil), Content{Kind: Blank, Detail: "zeros"}},
		"zeros, smallest":       {image(4096, nil), Content{Kind: Blank, Detail: "zeros"}},
		"zeros, one head":       {image(headBytes, nil), Content{Kind: Blank, Detail: "zeros"}},
		"zeros, no multiple":    {image(diskBytes+512, nil), Content{Kind: Blank, Detail: "zeros"}},
		"ext4":                  {ext4Image(nil), Content{Kind: Ext4, Detail: "ext4", DeclaredBytes: diskBytes}},
		"ext4 with errors":      {ext4Image(func(sb []byte) { le.PutUint16(sb[ext4StateAt:], 3) }), Content{Kind: Ext4, Detail: "ext4", NeedsCheck: true, DeclaredBytes: diskBytes}},
		"ext4 without journal":  {ext4Image(func(sb []byte) { le.PutUint32(sb[ext4CompatAt:], 0) }), Content{Kind: Ext4, Detail: "ext4", DeclaredBytes: diskBytes}},
		"ext3":                  {ext4Image(func(sb []byte) { le.PutUint32(sb[ext4IncompatAt:], 0) }), Content{Kind: Ext4, Detail: "ext4", DeclaredBytes: diskBytes}},
		"ext4 of 1 KiB blocks":  {ext4Image(func(sb []byte) { le.PutUint32(sb[ext4BlockSizeAt:], 0) }), Content{Kind: Ext4, Detail: "ext4", DeclaredBytes: diskBytes / 4}},
		"ext4, 64 bit":          {ext4Image(func(sb []byte) { le.PutUint32(sb[ext4BlocksHiAt:], 1) }), Content{Kind: Ext4, Detail: "ext4", DeclaredBytes: diskBytes + 4096<<32}},
		"ext4, absurd size":     {ext4Image(func(sb []byte) { le.PutUint32(sb[ext4BlocksHiAt:], math.MaxUint32) }), Content{Kind: Ext4, Detail: "ext4", DeclaredBytes: math.MaxInt64}},
		"ext4, boot code ahead": {append([]byte("boot code"), ext4Image(nil)[9:]...), Content{Kind: Ext4, Detail: "ext4", DeclaredBytes: diskBytes}},
		"ext4, absurd block":    {ext4Image(func(sb []byte) { le.PutUint32(sb[ext4BlockSizeAt:], 7) }), Content{Kind: Other, Detail: "damaged ext4"}},
		"ext2":                  {ext4Image(func(sb []byte) { le.PutUint32(sb[ext4CompatAt:], 0); le.PutUint32(sb[ext4IncompatAt:], 0) }), Content{Kind: Other, Detail: "ext2"}},
		"ext4 journal device":   {ext4Image(func(sb []byte) { le.PutUint32(sb[ext4IncompatAt:], ext4JournalDev) }), Content{Kind: Other, Detail: "external ext4 journal"}},
		"ext4 below a GPT":      {append(append(image(512, nil), "EFI PART"...), ext4Image(nil)[520:]...), Content{Kind: Other, Detail: "GPT"}},
		"xfs":                   {xfsImage(4096, diskBytes/4096), Content{Kind: XFS, Detail: "XFS", DeclaredBytes: diskBytes}},
		"xfs, absurd size":      {xfsImage(math.MaxUint32, math.MaxUint64), Content{Kind: XFS, Detail: "XFS", DeclaredBytes: math.MaxInt64}},
		"xfs, negative size":    {xfsImage(4096, 1<<51), Content{Kind: XFS, Detail: "XFS", DeclaredBytes: math.MaxInt64}},
		"xfs, no size":          {xfsImage(0, 0), Content{Kind: XFS, Detail: "XFS"}},
		"LUKS":                  {image(diskBytes, map[int]string{0: "LUKS\xba\xbe\x00\x02"}), Content{Kind: Other, Detail: "LUKS"}},
		"LVM":                   {image(diskBytes, map[int]string{512: "LABELONE"}), Content{Kind: Other, Detail: "LVM"}},
		"LVM, its type":         {image(diskBytes, map[int]string{0x218: "LVM2 001"}), Content{Kind: Other, Detail: "LVM"}},
		"GPT":                   {image(diskBytes, map[int]string{510: "\x55\xaaEFI PART"}), Content{Kind: Other, Detail: "GPT"}},
		"GPT, backup only":      {image(diskBytes, map[int]string{-512: "EFI PART"}), Content{Kind: Other, Detail: fmt.Sprint(diskBytes - 512)}},
		"MBR":                   {image(diskBytes, map[int]string{510: "\x55\xaa"}), Content{Kind: Other, Detail: "partition table"}},
		"FAT":                   {image(diskBytes, map[int]string{54: "FAT16   ", 510: "\x55\xaa"}), Content{Kind: Other, Detail: "FAT"}},
		"FAT32":                 {image(diskBytes, map[int]string{82: "FAT32   ", 510: "\x55\xaa"}), Content{Kind: Other, Detail: "FAT"}},
		"NTFS":                  {image(diskBytes, map[int]string{3: "NTFS    ", 510: "\x55\xaa"}), Content{Kind: Other, Detail: "NTFS"}},
		"btrfs":                 {image(diskBytes, map[int]string{0x10040: "_BHRfS_M"}), Content{Kind: Other, Detail: "btrfs"}},
		"swap":                  {image(diskBytes, map[int]string{4086: "SWAPSPACE2"}), Content{Kind: Other, Detail: "swap"}},
		"md 1.1":                {image(diskBytes, map[int]string{0: "\xfc\x4e\x2b\xa9"}), Content{Kind: Other, Detail: "md RAID"}},
		"md 1.2":                {image(diskBytes, map[int]string{4096: "\xfc\x4e\x2b\xa9"}), Content{Kind: Other, Detail: "offset 4096"}},
		"md 0.90, at the end":   {image(diskBytes, map[int]string{-65536: "\xfc\x4e\x2b\xa9"}), Content{Kind: Other, Detail: "near the end"}},
		"ZFS label at the end":  {image(diskBytes, map[int]string{-tailBytes: "\x01"}), Content{Kind: Other, Detail: fmt.Sprint(diskBytes - tailBytes)}},
		"one bit at the end":    {image(diskBytes, map[int]string{-1: "\x80"}), Content{Kind: Other, Detail: fmt.Sprint(diskBytes - 1)}},
		"one bit in the head":   {image(diskBytes, map[int]string{headBytes - 1: "\x01"}), Content{Kind: Other, Detail: fmt.Sprint(headBytes - 1)}},
		// Nothing was examined there: the storage host's map has to tell.
		"one bit in the middle": {image(diskBytes, map[int]string{headBytes: "\x01"}), Content{Kind: Blank, Detail: "zeros"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ProbeReader(bytes.NewReader(c.image), int64(len(c.image)))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(got.Detail, c.want.Detail) {
				t.Errorf("detail %q does not say %q", got.Detail, c.want.Detail)
			}
			c.want.Detail = got.Detail
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestProbeEveryByte: wherever in the examined regions a byte is not zero, the
// device is not blank.
func TestProbeEveryByte(t *testing.T) {
	t.Parallel()
	b := make([]byte, diskBytes)
	const step = 8191 // a prime: every place in a sector comes up
	for _, region := range [][2]int{{0, headBytes}, {diskBytes - tailBytes, diskBytes}} {
		for at := region[0]; at < region[1]; at += step {
			b[at] = 1
			if c, err := ProbeReader(bytes.NewReader(b), diskBytes); err != nil || c.Kind == Blank {
				t.Errorf("a byte at %d: %+v, %v", at, c, err)
			}
			b[at] = 0
		}
	}
}

// reader reads from b and goes wrong at an offset.
type reader struct {
	b     []byte
	at    int64
	err   error
	short int // bytes left out from a read that reaches at
}

func (r reader) ReadAt(p []byte, off int64) (int, error) {
	if off%probeAlign != 0 || len(p)%probeAlign != 0 {
		return 0, errors.New("a read that is not aligned")
	}
	n := copy(p, r.b[min(off, int64(len(r.b))):])
	if off <= r.at && r.at < off+int64(n) {
		return n - r.short, r.err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// TestProbeFailingReads: not readable is not blank.
func TestProbeFailingReads(t *testing.T) {
	t.Parallel()
	broken := errors.New("medium error")
	zeros := make([]byte, diskBytes)
	for name, c := range map[string]struct {
		r    reader
		size int64
		want error
	}{
		"head":               {reader{b: zeros, at: 0, err: broken, short: headBytes}, diskBytes, broken},
		"head, in between":   {reader{b: zeros, at: 8192, err: broken, short: 1}, diskBytes, broken},
		"tail":               {reader{b: zeros, at: diskBytes - 1, err: broken, short: 512}, diskBytes, broken},
		"short head":         {reader{b: zeros, at: 0, short: 512}, diskBytes, io.ErrUnexpectedEOF},
		"short tail":         {reader{b: zeros, at: diskBytes - 1, short: 512}, diskBytes, io.ErrUnexpectedEOF},
		"device is smaller":  {reader{b: zeros[:headBytes], at: -1}, diskBytes, io.ErrUnexpectedEOF},
		"device is empty":    {reader{at: -1}, diskBytes, io.ErrUnexpectedEOF},
		"end of file in one": {reader{b: zeros, at: 0, err: io.EOF, short: 512}, diskBytes, io.ErrUnexpectedEOF},
	} {
		if got, err := ProbeReader(c.r, c.size); !errors.Is(err, c.want) || got != (Content{}) {
			t.Errorf("%s: %+v, %v; want %v", name, got, err, c.want)
		}
	}
	// A full read is a full read, whatever comes with it (io.ReaderAt).
	if got, err := ProbeReader(reader{b: zeros, at: diskBytes - 1, err: io.EOF}, diskBytes); err != nil || got.Kind != Blank {
		t.Errorf("end of file with the last byte: %+v, %v", got, err)
	}
	for _, size := range []int64{-1, 0, 1, 512, 4095} {
		if got, err := ProbeReader(bytes.NewReader(zeros), size); err == nil {
			t.Errorf("%d bytes: %+v", size, got)
		}
	}
}

func TestAllZero(t *testing.T) {
	t.Parallel()
	const size = 9 << 20 // more than two reads
	zeros := make([]byte, size)
	if ok, err := AllZero(t.Context(), bytes.NewReader(zeros), size); !ok || err != nil {
		t.Errorf("zeros: %v, %v", ok, err)
	}
	for _, at := range []int{0, 1 << 20, 4<<20 - 1, 4 << 20, 5<<20 + 17, size - 1} {
		zeros[at] = 1
		if ok, err := AllZero(t.Context(), bytes.NewReader(zeros), size); ok || err != nil {
			t.Errorf("a byte at %d: %v, %v", at, ok, err)
		}
		zeros[at] = 0
	}
	broken := errors.New("medium error")
	if ok, err := AllZero(t.Context(), reader{b: zeros, at: 5 << 20, err: broken, short: 4096}, size); ok || !errors.Is(err, broken) {
		t.Errorf("failing: %v, %v", ok, err)
	}
	if ok, err := AllZero(t.Context(), reader{b: zeros[:size-4096], at: -1}, size); ok || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short: %v, %v", ok, err)
	}
}

// FuzzProbe: whatever a device holds, the probe does not panic, is repeatable,
// and says "blank" only of zeros.
func FuzzProbe(f *testing.F) {
	f.Add([]byte{}, uint32(0), []byte{}, uint32(0), uint32(0))
	f.Add([]byte("XFSB\x00\x00\x10\x00"), uint32(0), []byte("EFI PART"), uint32(512), uint32(1<<20))
	f.Add([]byte{0x53, 0xEF}, uint32(1080), []byte{4}, uint32(1024+0x5C), uint32(7))
	f.Add([]byte("LUKS\xba\xbe"), uint32(0), []byte{1}, uint32(2<<20-1), uint32(2<<20))
	f.Fuzz(func(t *testing.T, a []byte, atA uint32, b []byte, atB, extra uint32) {
		size := 4096 + int(extra%(2<<20))
		disk := make([]byte, size)
		copy(disk[int(atA)%size:], a)
		copy(disk[int(atB)%size:], b)
		c, err := ProbeReader(bytes.NewReader(disk), int64(size))
		again, err2 := ProbeReader(bytes.NewReader(disk), int64(size))
		if err != nil || err2 != nil || c != again {
			t.Fatalf("%+v, %v; then %+v, %v", c, err, again, err2)
		}
		if c.Detail == "" || c.DeclaredBytes < 0 {
			t.Errorf("%+v", c)
		}
		examined := size - size%probeAlign
		head, tail := disk[:min(headBytes, examined)], disk[max(examined-tailBytes, 0):examined]
		zero := len(bytes.Trim(head, "\x00")) == 0 && len(bytes.Trim(tail, "\x00")) == 0
		if (c.Kind == Blank) != zero {
			t.Errorf("zero: %v, and the probe says %+v", zero, c)
		}
	})
}
