// Package watch keeps staged volumes alive: one loop that looks at sysfs and at
// the device mapper, decides, and acts. It holds the reconnect delay of sessions
// small, connects again what the kernel has given up, asks for namespaces that
// do not show up, puts devices that are proven back below their tables, and ends
// the waiting of volumes for which it must end.
//
// The look is cheap while nothing happens: the states of the controllers and the
// event numbers of all tables, four times a second, because the kernel announces
// no loss; and at once when a uevent says that something came back. What is
// decided is a pure function of what was seen and of what is remembered. Acts
// that may take their time run beside the loop, one for a volume or session at a
// time, so a dead device holds up nobody else.
//
// It opens no device, mounts nothing and touches no disk itself: after a restart
// it begins with what it sees, and with the clocks that it was given. How a session is connected and a table is fed is
// internal/initiator's and internal/guard's business.
package watch
