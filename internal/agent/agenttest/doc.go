// Package agenttest is a storage host in memory for tests: the real agent and
// its real gRPC contract on a model of the kernel's target, a gate that drops
// nothing, and pools of real files. It can lose its power, and its agent can be
// killed before or after any single change to the outside.
//
// TestBackend is what every volume.Backend with a volume.FormatAuthority must
// do; it runs against this host and, in the virtual machine, against a real
// kernel.
package agenttest
