// Package sanity runs the whole driver in one process, without root and without
// a kernel: the CSI services over gRPC on a socket, the agent over gRPC in
// memory, pools of real files, a model of the kernel's target and a model of
// the node. The CSI project's own conformance suite goes over it, and a table
// of hostile and mistaken requests.
package sanity
