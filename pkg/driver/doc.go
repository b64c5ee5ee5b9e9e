// Package driver holds the CSI services: Identity, Controller and Node. A
// handler validates, translates between CSI and the words of internal/volume
// and internal/node, and delegates; it does no I/O of its own and runs no
// program. Codes are made by internal/rpcerr, in one interceptor.
//
// It does not serve: internal/app owns listeners and gRPC servers.
package driver
