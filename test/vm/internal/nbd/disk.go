//go:build linux

package nbd

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// sectorSize is what a disk promises to write as a whole or not at all.
	sectorSize = 512
	pageSize   = 4096
	perPage    = pageSize / sectorSize
	// maxCached bounds the cache, in pages (256 MiB). A disk whose cache is full writes some of it.
	maxCached = 64 << 10
)

var (
	errRange     = errors.New("beyond the end of the disk")
	errAlignment = errors.New("not a whole number of sectors")
)

// Disk is a file with a volatile cache in front: writes stay in the cache until a flush, and only what reached the file
// survives PowerCut. The cache writes back by itself now and then, so a sector may survive in any of the versions it had
// since the last flush. A Disk is used by one goroutine at a time.
type Disk struct {
	file   *os.File
	size   int64
	rnd    *rand.Rand
	cached map[int64]*page // by page number
}

// page holds the sectors of 4 KiB that differ from the file.
type page struct {
	data  [pageSize]byte
	dirty uint8 // bit per sector
}

// Open opens an existing file. Which unflushed writes a power cut loses follows from seed.
func Open(path string, seed uint64) (*Disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if info.Size()%pageSize != 0 {
		return nil, errors.Join(fmt.Errorf("disk %s: size %d is no multiple of %d", path, info.Size(), pageSize), f.Close())
	}
	return &Disk{file: f, size: info.Size(), rnd: rand.New(rand.NewPCG(seed, seed)), cached: make(map[int64]*page)}, nil
}

// Size returns the size in bytes.
func (d *Disk) Size() int64 { return d.size }

// Close closes the file; what has not been flushed is lost.
func (d *Disk) Close() error { return d.file.Close() }

func (d *Disk) check(length, off int64) error {
	if off%sectorSize != 0 || length%sectorSize != 0 {
		return errAlignment
	}
	if off < 0 || length < 0 || length > d.size || off > d.size-length {
		return errRange
	}
	return nil
}

// each calls do for every page that a range touches, with the sectors of the page and the place in the range.
func each(length, off int64, do func(number int64, first, end int, at int64) error) error {
	for at := int64(0); at < length; {
		number, first := (off+at)/pageSize, int((off+at)%pageSize)/sectorSize
		end := int(min(int64(perPage), int64(first)+(length-at)/sectorSize))
		if err := do(number, first, end, at); err != nil {
			return err
		}
		at += int64(end-first) * sectorSize
	}
	return nil
}

func mask(first, end int) uint8 { return uint8(1<<end - 1<<first) }

// ReadAt reads what was written last, flushed or not.
func (d *Disk) ReadAt(p []byte, off int64) error {
	if err := d.check(int64(len(p)), off); err != nil {
		return err
	}
	if _, err := d.file.ReadAt(p, off); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return each(int64(len(p)), off, func(number int64, first, end int, at int64) error {
		pg := d.cached[number]
		if pg == nil {
			return nil
		}
		for s := first; s < end; s++ {
			if pg.dirty&(1<<s) != 0 {
				copy(p[at+int64(s-first)*sectorSize:][:sectorSize], pg.data[s*sectorSize:])
			}
		}
		return nil
	})
}

// WriteAt writes to the cache, or with fua through it.
func (d *Disk) WriteAt(p []byte, off int64, fua bool) error {
	if err := d.check(int64(len(p)), off); err != nil {
		return err
	}
	if fua {
		d.forget(int64(len(p)), off)
		_, err := d.file.WriteAt(p, off)
		return err
	}
	err := each(int64(len(p)), off, func(number int64, first, end int, at int64) error {
		pg, err := d.take(number, mask(first, end))
		if err != nil {
			return err
		}
		copy(pg.data[first*sectorSize:end*sectorSize], p[at:])
		return nil
	})
	if err != nil {
		return err
	}
	return d.trimCache()
}

// Zero writes zeroes.
func (d *Disk) Zero(length, off int64, fua bool) error {
	if err := d.check(length, off); err != nil {
		return err
	}
	if fua || length > maxCached*pageSize/2 { // more than the cache should hold goes past it
		return d.Trim(length, off)
	}
	err := each(length, off, func(number int64, first, end int, _ int64) error {
		pg, err := d.take(number, mask(first, end))
		if err != nil {
			return err
		}
		clear(pg.data[first*sectorSize : end*sectorSize])
		return nil
	})
	if err != nil {
		return err
	}
	return d.trimCache()
}

// Trim makes a range read as zeroes at once and for good, which a disk may do with a discard.
func (d *Disk) Trim(length, off int64) error {
	if err := d.check(length, off); err != nil {
		return err
	}
	d.forget(length, off)
	if length == 0 {
		return nil
	}
	err := unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return d.writeZeroes(length, off)
	}
	if err != nil {
		return fmt.Errorf("punch hole: %w", err)
	}
	return nil
}

// writeZeroes is for file systems that punch no holes.
func (d *Disk) writeZeroes(length, off int64) error {
	zeroes := make([]byte, min(length, 1<<20))
	for length > 0 {
		n, err := d.file.WriteAt(zeroes[:min(length, int64(len(zeroes)))], off)
		if err != nil {
			return err
		}
		length, off = length-int64(n), off+int64(n)
	}
	return nil
}

// take returns a page of which the sectors in m are about to be overwritten. Older versions of these reach the file now or
// never, by chance.
func (d *Disk) take(number int64, m uint8) (*page, error) {
	pg := d.cached[number]
	if pg == nil {
		pg = &page{}
		d.cached[number] = pg
	}
	if old := pg.dirty & m; old != 0 && d.rnd.IntN(2) == 0 {
		if err := d.writeBack(number, pg, old); err != nil {
			return nil, err
		}
	}
	pg.dirty |= m
	return pg, nil
}

// forget drops the range from the cache.
func (d *Disk) forget(length, off int64) {
	_ = each(length, off, func(number int64, first, end int, _ int64) error { // only the function given can fail
		if pg := d.cached[number]; pg != nil {
			if pg.dirty &^= mask(first, end); pg.dirty == 0 {
				delete(d.cached, number)
			}
		}
		return nil
	})
}

// writeBack writes the sectors in m to the file.
func (d *Disk) writeBack(number int64, pg *page, m uint8) error {
	for s := range perPage {
		if m&(1<<s) == 0 {
			continue
		}
		if _, err := d.file.WriteAt(pg.data[s*sectorSize:(s+1)*sectorSize], number*pageSize+int64(s)*sectorSize); err != nil {
			return err
		}
	}
	return nil
}

// numbers is sorted, so that chance depends on the seed alone.
func (d *Disk) numbers() []int64 {
	numbers := make([]int64, 0, len(d.cached))
	for n := range d.cached {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers
}

// trimCache writes about half of a cache that has grown too large to the file.
func (d *Disk) trimCache() error {
	if len(d.cached) <= maxCached {
		return nil
	}
	for _, number := range d.numbers() {
		if d.rnd.IntN(2) == 0 {
			continue
		}
		if err := d.writeBack(number, d.cached[number], d.cached[number].dirty); err != nil {
			return err
		}
		delete(d.cached, number)
	}
	return nil
}

// Flush makes everything written so far survive.
func (d *Disk) Flush() error {
	for _, number := range d.numbers() {
		if err := d.writeBack(number, d.cached[number], d.cached[number].dirty); err != nil {
			return err
		}
		delete(d.cached, number)
	}
	return nil
}

// PowerCut empties the cache: a share of its sectors, drawn anew each time, happens to have reached the file, the others
// are lost. It returns how many were lost.
func (d *Disk) PowerCut() (lost int, err error) {
	share := d.rnd.Float64()
	for _, number := range d.numbers() {
		pg := d.cached[number]
		var kept uint8
		for s := range perPage {
			bit := uint8(1) << s
			switch {
			case pg.dirty&bit == 0:
			case d.rnd.Float64() < share:
				kept |= bit
			default:
				lost++
			}
		}
		if err := d.writeBack(number, pg, kept); err != nil {
			return lost, err
		}
		delete(d.cached, number)
	}
	return lost, nil
}
