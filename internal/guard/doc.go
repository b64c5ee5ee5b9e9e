// Package guard holds a volume's I/O while its device is gone: three device-mapper
// devices per volume. The table, which the file system or the pod has open, is a
// multipath target with two path groups of one path each, and queues when it has
// no path. Its paths are two legs, each linear on the volume's disk; I/O goes
// through one of them. When the disk is lost the other, which nothing goes through,
// gets a table that keeps whatever comes, and takes over: what waits collects there
// at no cost. When the disk is back, under whatever name, a leg is made to lead to
// it, and what was kept goes out through that. The table itself is suspended only to
// grow: a multipath target whose suspend is interrupted fails its I/O from then on
// (dm-mpath.c, multipath_presuspend), and a process can be killed at any moment.
//
// It decides nothing about whether a device is the right one: whoever calls
// brings a device and a function that proves it, and the proof is asked for
// again before the device is put to use. It waits for a device when it opens it, and
// where it suspends for what is under way on it, but not on one that was left; so
// one volume's calls may wait, and exclude each other, while those of others go on. It executes no program.
package guard
