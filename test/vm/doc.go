// Package vm boots virtual machines with a distribution's kernel and runs things in them: the rungs of testing that need a
// real kernel, a real network that fails, and a power switch.
//
// A Lab is a set of machines on one kernel with Ethernet switches between them. A Machine has a control channel of its own,
// apart from those switches, so that a machine whose network is cut can still be asked what it sees. See README.md.
//
// The package needs QEMU, apt and the programs that hack/install-deps installs, but neither KVM nor root. It is not a
// general virtual machine manager: machines live as long as the process that made them, and only Linux on amd64 is known.
package vm
