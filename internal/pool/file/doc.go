// Package file is the pool of sparse files: DIR/volumes/<uuid>.img on an XFS,
// btrfs or ext4 file system, with a marker DIR/.holdfast-pool that proves that
// the right file system is mounted at DIR.
//
// It does not mount, make or repair file systems, does not count promises
// (only what is allocated now), and does not keep a volume from being deleted
// while it is exported: its callers do. One process at a time may open a pool;
// the lock of internal/store sees to that.
package file
