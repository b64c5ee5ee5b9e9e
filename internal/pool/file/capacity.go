package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// maxNamed is how many names a warning lists.
const maxNamed = 5

// Capacity reads the file system's counters and the allocation of every volume.
// The two are not read at one instant, so ForeignBytes wavers by what is being
// written meanwhile.
func (p *Pool) Capacity(ctx context.Context) (pool.Capacity, error) {
	if err := ctx.Err(); err != nil {
		return pool.Capacity{}, fmt.Errorf("pool %q: capacity: %w", p.opts.Name, err)
	}
	if err := p.present(); err != nil {
		return pool.Capacity{}, err
	}
	st, err := p.statfs()
	if err != nil {
		return pool.Capacity{}, fmt.Errorf("pool %q: capacity: %w", p.opts.Name, err)
	}
	ours, strange, err := p.allocated(ctx)
	if err != nil {
		return pool.Capacity{}, fmt.Errorf("pool %q: capacity: %w", p.opts.Name, err)
	}
	unit := frsize(st)
	total := bytesOf(st.Blocks, unit)
	used := total - min(total, bytesOf(st.Bfree, unit))
	return pool.Capacity{
		TotalBytes:   total,
		ReserveBytes: p.opts.reserve(total),
		ForeignBytes: max(used-ours, 0), AllocatedBytes: ours, FileSystem: fsid(st),
		BlockSize: int(p.blockSize),
		Warnings:  p.warnings(strange),
	}, nil
}

// allocated sums up what the volumes take in bytes, and names what is among
// them and is none. A volume deleted meanwhile counts nothing.
func (p *Pool) allocated(ctx context.Context) (sum int64, strange []string, err error) {
	names, err := p.names()
	if err != nil {
		return 0, nil, err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return 0, nil, err
		}
		id, ok := parseName(name)
		if !ok {
			if !strings.HasPrefix(name, newPrefix) {
				strange = append(strange, name)
			}
			continue
		}
		info, err := p.stat(id)
		switch {
		case err == nil:
			sum += info.AllocatedBytes
		case errors.Is(err, volume.ErrPrecondition):
			strange = append(strange, name)
		case !errors.Is(err, volume.ErrNotFound):
			return 0, nil, err
		}
	}
	return sum, strange, nil
}

// warnings tells why the counters of the file system may move without the
// pool's doing.
func (p *Pool) warnings(strange []string) (list []string) {
	dir := p.opts.Dir
	m, err := mountOf(dir)
	switch {
	case err != nil:
		list = append(list, fmt.Sprintf("cannot tell whether %s is a mount point: %v", dir, err))
	case m.Mountpoint != dir:
		list = append(list, fmt.Sprintf("%s is not a mount point: it shares the %s at %s with other things", dir, m.FSType, m.Mountpoint))
	case m.Root != "/":
		list = append(list, fmt.Sprintf("%s is only the part %s of its %s: it shares the space with other parts", dir, m.Root, m.FSType))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		list = append(list, fmt.Sprintf("cannot list %s: %v", dir, err))
	}
	var foreign []string
	for _, e := range entries {
		if !slices.Contains([]string{volumesDir, markerName, "lost+found"}, e.Name()) {
			foreign = append(foreign, e.Name())
		}
	}
	list = appendNames(list, dir+" has entries that are not the pool's: ", foreign)
	return appendNames(list, dir+"/"+volumesDir+" has entries that are no volumes: ", strange)
}

func appendNames(list []string, text string, names []string) []string {
	if len(names) == 0 {
		return list
	}
	slices.Sort(names)
	if more := len(names) - maxNamed; more > 0 {
		names = append(names[:maxNamed:maxNamed], fmt.Sprintf("and %d more", more))
	}
	return append(list, text+strings.Join(names, ", "))
}

// fsid is the identity that a file system gives itself. Subvolumes of a btrfs
// have one each, so that two of them are not seen to share their space.
func fsid(st unix.Statfs_t) uint64 {
	return uint64(uint32(st.Fsid.Val[0])) | uint64(uint32(st.Fsid.Val[1]))<<32
}

func (p *Pool) statfs() (st unix.Statfs_t, err error) {
	if err := unix.Fstatfs(int(p.dir.Fd()), &st); err != nil {
		return st, fmt.Errorf("statfs %q: %w", p.dir.Name(), err)
	}
	return st, nil
}
