// Package initiatortest has what tests of the host side need. Fake is a machine
// and the targets it can reach: connecting makes controllers and disks appear in
// a temporary sysfs, cutting a portal makes them wait, and so on. Nvmet sets up
// a real target in the kernel. TestConnector is what every Connector must do; it
// runs against the fake and, in a virtual machine, against both real ones, so
// that a fake that drifts from the kernel is caught.
//
// It holds no data: a fake disk is an empty file of the right size. It is
// imported by tests only.
package initiatortest
