// Package guard holds a volume's I/O while its device is gone: a device-mapper
// multipath table with one path that queues when it has none. The file system or
// the pod has the table's device open; what is below it may be deleted, come
// back under another name, and be put in again.
//
// It decides nothing about whether a device is the right one: whoever calls
// brings a device and a function that proves it, and the proof is asked for
// again before the table is put to use. It never waits for a dead device, but
// for a suspend, which waits for the I/O that is under way; so one volume's
// calls may wait, and exclude each other, while those of others go on. It
// executes no program.
package guard
