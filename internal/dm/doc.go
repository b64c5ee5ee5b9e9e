// Package dm speaks to the kernel's device mapper through /dev/mapper/control
// (include/uapi/linux/dm-ioctl.h): it makes devices, loads tables of one target,
// suspends, resumes, sends messages, reads status.
//
// It executes no program and links no library, because it is used to heal a
// volume while the node may be out of memory; a request and its answer live in a
// buffer that is kept and used again. It knows nothing of what a table means, makes
// no device node (devtmpfs does), and takes part in no udev synchronisation:
// nothing here waits for udevd.
package dm
