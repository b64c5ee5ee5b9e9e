// Package guard holds a volume's I/O while its device is gone: three device-mapper
// devices per volume. The table, which the file system or the pod has open, is a
// multipath target with two path groups of one path each, and queues when it has
// no path. One path is the volume's disk, which I/O goes to; the other is the leg,
// to which the table turns when the disk fails. It keeps what is written, and once
// the volume is held what is read as well: what waits collects there at no cost.
// When the disk is back, what was kept goes to the wall, which fails it, so that the
// table sends it to the disk; when it is another disk, or has another name, through
// the leg at first. The table is suspended only while it has a path: a multipath target
// whose suspend is interrupted fails its I/O when it has none (dm-mpath.c,
// multipath_presuspend), and a process can be killed at any moment.
//
// It decides nothing about whether a device is the right one: whoever calls
// brings a device and a function that proves it, and the proof is asked for
// again before the device is put to use. It waits for a device when it opens it, and
// where it suspends for what is under way on it, but not on one that was left; so
// one volume's calls may wait, and exclude each other, while those of others go on.
// It executes no program.
package guard
