// Package volume holds the words of Holdfast: volume, publication, node
// identity, and the errors that every layer speaks. It is the inside of the
// house: the storage host's agent, the CSI services and the node workflows all
// import it, and it imports none of them.
//
// It does not talk to a kernel, a file system or a network, and it knows
// nothing of CSI or gRPC: the codes of those worlds are made in
// internal/rpcerr, from the sentinels below.
package volume
