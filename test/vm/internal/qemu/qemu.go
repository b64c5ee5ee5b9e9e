// Package qemu starts one QEMU, speaks QMP to it, and finds out with which accelerator guests really boot.
//
// It knows x86-64 machines with the devices that the harness uses, and nothing of what runs inside.
package qemu
