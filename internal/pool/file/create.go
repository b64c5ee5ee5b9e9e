package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// untouched is the modification time that Create gives a file. Whatever writes
// to the file, preallocates or punches holes moves it, so that a file written
// and then discarded, whose map is empty again, is still seen to be not new.
// Whole seconds, because small ext4 inodes store no more.
var untouched = time.Date(2001, time.January, 1, 0, 0, 0, 0, time.UTC)

// Create makes the sparse file under a temporary name and renames it, so that
// a file under its own name always has its full size.
func (p *Pool) Create(ctx context.Context, id uuid.UUID, size int64) error {
	if id == uuid.Nil || size <= 0 || size%p.blockSize != 0 {
		return p.failure(id, "create", fmt.Errorf("size of %d bytes must be a positive multiple of %d and the UUID not zero: %w", size, p.blockSize, volume.ErrInvalid))
	}
	release, err := p.begin(ctx, id, "create")
	if err != nil {
		return err
	}
	defer release()
	info, err := p.stat(id)
	if err == nil {
		return p.failure(id, "create", p.recreate(id, info.SizeBytes, size))
	}
	if !errors.Is(err, volume.ErrNotFound) {
		return p.failure(id, "create", err)
	}
	return p.failure(id, "create", spaceError(p.create(id, size)))
}

func (p *Pool) create(id uuid.UUID, size int64) (err error) {
	st, err := p.statfs()
	if err != nil {
		return err
	}
	if total := bytesOf(st.Blocks, frsize(st)); size > total {
		return fmt.Errorf("%d bytes are more than the whole file system (%d): %w", size, total, volume.ErrNoSpace)
	}
	tmp := newPrefix + id.String()
	if err := p.root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := p.root.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = p.root.Remove(tmp) // else the next Create or Open removes it
		}
	}()
	if err := fill(f, size); err != nil {
		return err
	}
	fd := int(p.dir.Fd())
	if err := unix.Renameat2(fd, tmp, fd, fileName(id), unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("rename %q to %q: %w", tmp, fileName(id), err)
	}
	return p.dir.Sync()
}

// fill gives the new file its size and its modification time, and closes it.
func fill(f *os.File, size int64) error {
	err := writeThrough(f)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		ts := unix.NsecToTimespec(untouched.UnixNano())
		times := []unix.Timespec{ts, ts}
		err = unix.UtimesNanoAt(int(f.Fd()), "", times, unix.AT_EMPTY_PATH)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// recreate answers for a file that is there. It flushes again: the call that
// made the file may have failed at just that.
func (p *Pool) recreate(id uuid.UUID, have, want int64) error {
	if have != want {
		return fmt.Errorf("has %d bytes, asked for are %d: %w", have, want, volume.ErrExists)
	}
	f, err := p.root.OpenFile(fileName(id), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	err = f.Sync()
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return p.dir.Sync()
}

// writeThrough marks the file so that every write is on the disk before it is
// answered (chattr +S). The node cannot be trusted to say when: native NVMe
// multipath ends a flush that was under way when its path was lost with success
// and never sends it again (nvme_failover_req of Linux 6.1 steals the bios of
// the request, and a flush has none), so a flushed write was seen to be missing
// after the storage host's power was cut at that moment.
func writeThrough(f *os.File) error {
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|syncFlag)
	}
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // a file system that only tests are allowed to use
	}
	if err != nil {
		return fmt.Errorf("make writes synchronous: %w", err)
	}
	return nil
}

// syncFlag is FS_SYNC_FL of linux/fs.h.
const syncFlag = 0x8

// Delete unlinks the file. The kernel frees its blocks when the last user, such
// as an export, lets go of it.
func (p *Pool) Delete(ctx context.Context, id uuid.UUID) error {
	release, err := p.begin(ctx, id, "delete")
	if err != nil {
		return err
	}
	defer release()
	_, err = p.stat(id)
	if err == nil {
		err = p.root.Remove(fileName(id))
	}
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		return p.failure(id, "delete", err)
	}
	return p.failure(id, "delete", p.dir.Sync())
}

// begin is what every change starts with.
func (p *Pool) begin(ctx context.Context, id uuid.UUID, what string) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, p.failure(id, what, err)
	}
	if release, err = p.locks.Lock(id.String(), what); err != nil {
		return nil, p.failure(id, what, err)
	}
	if err := p.present(); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func (p *Pool) failure(id uuid.UUID, what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("pool %q: %s volume %s: %w", p.opts.Name, what, id, err)
}

// spaceError adds volume.ErrNoSpace where the file system says so: no room for
// the metadata, a quota, or a file larger than it can address.
func spaceError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("%w: %w", err, volume.ErrNoSpace)
	}
	return err
}

// frsize is the unit of the block counts of statfs.
func frsize(st unix.Statfs_t) int64 {
	if st.Frsize > 0 && st.Frsize <= math.MaxInt32 {
		return int64(st.Frsize)
	}
	return int64(st.Bsize)
}
