// Package patience shortens how long the kernel waits for the answer to an NVMe
// admin command (nvme_core.admin_timeout, a minute by default) while something of
// ours is away, connected or taken down, and puts the time back afterwards.
//
// A storage host that vanishes between two admin commands of a connect otherwise
// holds that connect for the whole time, and with it every other connect of the
// node: the kernel lets one in at a time (nvmf_dev_mutex). So does the deletion of
// a controller that is live and silent. Keep-alives find a peer that has vanished
// in seconds, but only on a connection that is up.
//
// The time is that of all NVMe controllers of the machine, local disks too, and
// the kernel reads it when a command begins (nvme_init_request): that is why it is
// not simply left short. It is no limit on reads and writes.
package patience
