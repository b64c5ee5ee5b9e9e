// Package store keeps what a storage host has promised: volumes, publications
// and sessions, and the identity of the installation, in one bbolt file. What
// Update returned nil for survives a crash.
//
// It does not know what is in the pools or in the kernel, and keeps no rules
// beyond those of its own keys: whether a volume may be deleted or published is
// the caller's to decide, inside one Update. It guards three things that no
// caller may get wrong: one volume per name, one publication per volume and
// node, and one publication per subsystem and NSID.
package store
