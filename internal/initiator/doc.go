// Package initiator is the host side of NVMe over Fabrics: it makes sessions,
// finds the device of a namespace and proves that it is the right one, and
// takes sessions down.
//
// It mounts nothing, keeps nothing on disk and loads no module, and it does not
// repair what the kernel gives up on: that is internal/watch, which also sets
// the options of a session that is adopted here as it was found. It never
// touches a session that another host identity made.
//
// The kernel can be asked to connect, not to stop connecting. So every wait
// here ends with the caller's context, while what the kernel was asked for goes
// on; until it has answered, the session's lock and the node's connect lock
// stay taken, and the next call finds the result in sysfs.
package initiator
