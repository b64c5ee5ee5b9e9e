// Package agent is the storage host's side of Holdfast: it keeps volumes and
// publications on disk, exports them through the kernel's target, and answers
// the controller and the nodes. It decides who may have a volume; the
// controller only asks.
//
// Every change is on disk before it is visible, and every method may be called
// again after any crash: it finds its own half-done work and goes on. It never
// touches user data, and it holds no lock that one hung pool could keep from
// the others. Transport security is internal/pki's and the listener is
// internal/app's.
package agent
