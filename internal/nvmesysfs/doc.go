// Package nvmesysfs reads what the kernel shows of NVMe over Fabrics in sysfs
// into plain values: the controllers of a subsystem and its namespaces. It
// reads attribute files only, none of which asks the device, so that a dead
// path cannot hang it; and it writes the few control files of a controller.
//
// It has no policy: what a state means and what should be done about it is the
// caller's business. It keeps nothing between two reads, follows no uevents,
// and leaves out controllers on PCIe. Things vanish while they are read; what
// is gone half-way is left out, as if it had been gone before.
//
// Everything begins at /sys/class/nvme-subsystem. A controller that has not
// been identified yet belongs to no subsystem and is not shown: its own
// subsysnqn attribute reads "(efault)" in that state (Linux 6.1 and 6.12,
// drivers/nvme/host/sysfs.c, nvme_sysfs_show_subsysnqn).
package nvmesysfs
