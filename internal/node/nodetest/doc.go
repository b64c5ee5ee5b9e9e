// Package nodetest is a node without a kernel, for tests. Machine has sessions,
// disks, a mount table and file systems in memory, and they behave: what was
// written and not synced is lost when a device goes, unless a device-mapper
// table keeps it waiting; an unmount over a dead path is out of the mount table
// at once and hangs all the same; names and numbers of devices are used again.
// Process is the plugin that runs on it; it can be killed at any step. Host is a
// storage host that the machine reaches.
//
// It mounts nothing, needs no root, and uses no clock but that of package time,
// so that it works inside a testing/synctest bubble. It is imported by tests
// only.
package nodetest
