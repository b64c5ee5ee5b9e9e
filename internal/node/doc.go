// Package node is the order of steps on a node: attach, prove, format or
// check, mount; and all of it backwards. Each volume has a record on disk that
// is written before the act it announces, so that whatever a crash interrupts
// the next call repairs.
//
// It speaks no CSI and no gRPC, finds no storage host by itself (it is given an
// Attachment) and does not watch sessions: that is internal/watch. It never
// decides that a volume may be formatted; it asks the storage host and then
// looks itself.
package node
