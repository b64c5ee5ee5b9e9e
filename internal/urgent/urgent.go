// Package urgent has the kernel serve a call out of the memory that it keeps from
// others. It makes nothing faster, and frees no memory.
package urgent

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f in a thread that is in real time meanwhile (SCHED_RR, the lowest
// priority), not for the sake of time: such a thread may have memory from below the
// watermark where all others have to reclaim some first (gfp_to_alloc_flags of
// page_alloc.c, since before Linux 6.1). On a node whose memory is full of pages for
// the volume that is away, and of writers that want more, there is nothing to reclaim
// until the volume is back. What f starts in other goroutines runs as always. Where
// it is not allowed (CAP_SYS_NICE, or CONFIG_RT_GROUP_SCHED in a container) f runs
// as always, too.
func Do[T any](f func() T) T {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.SchedGetAttr(0, 0)
	if err != nil || set(&unix.SchedAttr{Policy: unix.SCHED_RR, Priority: 1}) != nil {
		return f()
	}
	// No more than was changed: newer kernels also say what they chose themselves.
	defer set(&unix.SchedAttr{Policy: before.Policy, Flags: before.Flags, Nice: before.Nice, Priority: before.Priority}) //nolint:errcheck // it was allowed to be so
	return f()
}

// set is for this thread.
func set(a *unix.SchedAttr) error {
	a.Size = unix.SizeofSchedAttr
	return unix.SchedSetAttr(0, a, 0)
}
