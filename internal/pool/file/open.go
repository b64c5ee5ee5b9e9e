package file

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/keylock"
	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const (
	volumesDir = "volumes"
	suffix     = ".img"
	newPrefix  = ".new-"
	// maxBlockSize is nvmet's: it takes min(block bits of the inode, 12).
	maxBlockSize = 4096
)

// Options name a pool.
type Options struct {
	// Name and Installation must be those of the marker.
	Name, Installation string
	// Dir is an absolute path without symbolic links: normally a mount point.
	Dir string
	// ReserveBytes is never promised to volumes. 0 is the larger of 5 % and
	// 1 GiB, but at most 20 % of the file system.
	ReserveBytes int64
	// AllowAnyFS skips the check of the file system's type. For tests only:
	// elsewhere it is not known that holes are reported truthfully.
	AllowAnyFS bool
}

// Pool is an open pool. It holds the directory open, so that the file system
// cannot be unmounted by accident.
type Pool struct {
	opts      Options
	root      *os.Root // DIR/volumes
	dir       *os.File // the same, for fsync and renameat2
	blockSize int64
	locks     keylock.Set
}

var _ pool.Pool = (*Pool)(nil)

// Open checks directory, file system and marker and removes what an
// interrupted Create left. Whatever the administrator has to put right is
// volume.ErrPrecondition.
func Open(o Options) (*Pool, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if err := checkDir(o); err != nil {
		return nil, err
	}
	if err := checkMarker(o); err != nil {
		return nil, err
	}
	if err := checkVolumesDir(o); err != nil {
		return nil, err
	}
	p := &Pool{opts: o}
	if err := p.open(); err != nil {
		_ = p.Close() // the first error is the one to report
		return nil, fmt.Errorf("pool %q: %w", o.Name, err)
	}
	return p, nil
}

func (p *Pool) open() (err error) {
	path := filepath.Join(p.opts.Dir, volumesDir)
	if p.root, err = os.OpenRoot(path); err != nil {
		return err
	}
	if p.dir, err = p.root.Open("."); err != nil {
		return err
	}
	if err := p.present(); err != nil {
		return err
	}
	if err := p.readBlockSize(); err != nil {
		return err
	}
	return p.removeLeftovers()
}

// readBlockSize uses the file system's block size beside st_blksize, because
// XFS puts at least a page into the latter whatever its blocks are, while
// nvmet goes by the block bits of the inode.
func (p *Pool) readBlockSize() error {
	fs, err := p.statfs()
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(p.dir.Fd()), &st); err != nil {
		return fmt.Errorf("stat %q: %w", p.dir.Name(), err)
	}
	bs := min(int64(fs.Bsize), int64(st.Blksize), maxBlockSize)
	if bs < 512 || bs&(bs-1) != 0 {
		return fmt.Errorf("%q: block size of %d bytes is not a power of two from 512 on: %w", p.opts.Dir, bs, volume.ErrPrecondition)
	}
	p.blockSize = bs
	return nil
}

// removeLeftovers removes temporary files of a Create that never finished.
// Nobody was ever told of them.
func (p *Pool) removeLeftovers() error {
	names, err := p.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, newPrefix) {
			continue
		}
		if err := p.root.Remove(name); err != nil {
			return fmt.Errorf("remove the leftover of an interrupted create: %w", err)
		}
	}
	return nil
}

// Close lets go of the directory.
func (p *Pool) Close() (err error) {
	if p.dir != nil {
		err = p.dir.Close()
	}
	if p.root != nil {
		if e := p.root.Close(); err == nil {
			err = e
		}
	}
	return err
}

// Path is what nvmet exports.
func (p *Pool) Path(id uuid.UUID) string {
	return filepath.Join(p.opts.Dir, volumesDir, fileName(id))
}

func fileName(id uuid.UUID) string { return id.String() + suffix }

// present makes sure that the path which nvmet will open still leads to the
// directory that was opened. Otherwise the file system was lazily unmounted or
// covered, and "no such file" would be a lie.
func (p *Pool) present() error {
	path := filepath.Join(p.opts.Dir, volumesDir)
	now, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("pool %q: %q is gone: %w: %w", p.opts.Name, path, err, volume.ErrPrecondition)
	}
	opened, err := p.dir.Stat()
	if err != nil {
		return fmt.Errorf("pool %q: %w", p.opts.Name, err)
	}
	if !os.SameFile(now, opened) {
		return fmt.Errorf("pool %q: %q is no longer the directory that was opened; unmounted or covered by another mount? %w", p.opts.Name, path, volume.ErrPrecondition)
	}
	return nil
}

func (o Options) validate() error {
	if err := volume.ValidateName("pool", o.Name, volume.MaxHostName); err != nil {
		return err
	}
	if o.Installation == "" {
		return fmt.Errorf("pool %q: installation must not be empty: %w", o.Name, volume.ErrInvalid)
	}
	if o.ReserveBytes < 0 {
		return fmt.Errorf("pool %q: reserve of %d bytes is negative: %w", o.Name, o.ReserveBytes, volume.ErrInvalid)
	}
	return nil
}

// reserve returns the bytes never promised of a file system of total bytes.
func (o Options) reserve(total int64) int64 {
	if o.ReserveBytes > 0 {
		return o.ReserveBytes
	}
	return min(max(total/20, 1<<30), total/5)
}

// bytesOf multiplies without wrapping: some file systems report absurd sizes.
func bytesOf(blocks uint64, size int64) int64 {
	if size <= 0 || blocks > uint64(math.MaxInt64/size) {
		return math.MaxInt64
	}
	return int64(blocks) * size
}
