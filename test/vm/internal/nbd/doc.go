// Package nbd serves a disk with a volatile write cache over the NBD protocol, so that a power cut loses what a machine
// has written and not flushed, as on real hardware.
//
// One connection, the commands that QEMU uses, simple replies. It is no general NBD server, has no TLS and no export names.
package nbd
