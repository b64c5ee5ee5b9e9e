package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// sectorSize is the unit of st_blocks, whatever the file system's block is.
const sectorSize = 512

// Inspect returns size and allocation as the file system has them now.
func (p *Pool) Inspect(ctx context.Context, id uuid.UUID) (pool.Info, error) {
	if err := ctx.Err(); err != nil {
		return pool.Info{}, p.failure(id, "inspect", err)
	}
	if err := p.present(); err != nil {
		return pool.Info{}, err
	}
	info, err := p.stat(id)
	return info, p.failure(id, "inspect", err)
}

// stat is volume.ErrNotFound if there is no file, and volume.ErrPrecondition
// if something else has its name.
func (p *Pool) stat(id uuid.UUID) (pool.Info, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(p.dir.Fd()), fileName(id), &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return pool.Info{}, fmt.Errorf("file %q: %w", p.Path(id), volume.ErrNotFound)
	}
	if err != nil {
		return pool.Info{}, fmt.Errorf("stat %q: %w", p.Path(id), err)
	}
	return infoOf(&st, p.Path(id))
}

func infoOf(st *unix.Stat_t, path string) (pool.Info, error) {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return pool.Info{}, fmt.Errorf("%q is not a regular file: %w", path, volume.ErrPrecondition)
	}
	return pool.Info{SizeBytes: st.Size, AllocatedBytes: st.Blocks * sectorSize}, nil
}

// Blank is true only if all of this holds once everything delayed has been
// flushed: no data according to SEEK_DATA (which alone sees inline data), not
// one block allocated (which alone sees preallocated extents), and the
// modification time that Create set (which alone sees data written and then
// discarded).
func (p *Pool) Blank(ctx context.Context, id uuid.UUID) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, p.failure(id, "examine", err)
	}
	if err := p.present(); err != nil {
		return false, err
	}
	if _, err := p.stat(id); err != nil {
		return false, p.failure(id, "examine", err)
	}
	f, err := p.root.OpenFile(fileName(id), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, p.failure(id, "examine", err)
	}
	blank, err := blank(f)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return false, p.failure(id, "examine", err)
	}
	return blank, nil
}

func blank(f *os.File) (bool, error) {
	fd := int(f.Fd())
	if err := f.Sync(); err != nil {
		return false, err
	}
	if err := unix.Syncfs(fd); err != nil {
		return false, fmt.Errorf("syncfs: %w", err)
	}
	_, err := unix.Seek(fd, 0, unix.SEEK_DATA)
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, unix.ENXIO) {
		return false, fmt.Errorf("seek for data: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, fmt.Errorf("stat: %w", err)
	}
	// An empty file has no data either, but no volume is empty.
	return st.Size > 0 && st.Blocks == 0 && unix.TimespecToNsec(st.Mtim) == untouched.UnixNano(), nil
}

// List returns the volumes ordered by UUID. Files with other names are not
// volumes and are reported by Capacity.
func (p *Pool) List(ctx context.Context) ([]uuid.UUID, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("pool %q: list: %w", p.opts.Name, err)
	}
	if err := p.present(); err != nil {
		return nil, err
	}
	names, err := p.names()
	if err != nil {
		return nil, fmt.Errorf("pool %q: list: %w", p.opts.Name, err)
	}
	var ids []uuid.UUID
	for _, name := range names {
		if id, ok := parseName(name); ok {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	return ids, nil
}

// names reads the directory through a file of its own, because the position in
// a directory is shared by all users of one.
func (p *Pool) names() (names []string, err error) {
	d, err := p.root.Open(".")
	if err != nil {
		return nil, err
	}
	names, err = d.Readdirnames(-1)
	if e := d.Close(); err == nil {
		err = e
	}
	return names, err
}

func parseName(name string) (uuid.UUID, bool) {
	base, ok := strings.CutSuffix(name, suffix)
	if !ok {
		return uuid.Nil, false
	}
	id, err := volume.ParseUUID(base)
	return id, err == nil
}
