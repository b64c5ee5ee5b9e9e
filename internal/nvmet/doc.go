// Package nvmet drives the Linux kernel's NVMe target through configfs.
//
// A caller says which ports, subsystems and namespaces should exist (Desired),
// reads what does exist (Observe), and gets the difference as a list of single
// configfs operations (Plan, which is pure) to be carried out in order (Apply).
// Nothing is remembered between calls: the kernel's tree is the only state, so
// a crash at any step is repaired by observing and planning again.
//
// The order of the steps matters more than their number. A host that connects
// to a listening port and finds the subsystem, its own permission or a
// namespace missing is told so with a "do not retry" status, and from Linux
// 6.10 on it then drops the controller for good. Hence a subsystem is linked to
// its port only when it is complete, and unlinked before it is taken apart.
// That leaves one window this package cannot close: while one subsystem of a
// shared port is linked and another is not yet. Use a TCP port per subsystem,
// or package gate.
//
// The package does not load kernel modules, mount configfs, create backing
// devices, store anything, or configure authentication, TLS or ANA. It touches
// only objects named in Desired, and it takes no locks across processes:
// callers serialise work on one subsystem and on one port.
package nvmet
