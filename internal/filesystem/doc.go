// Package filesystem deals with what is on a block device: what it holds
// (Probe), making a file system on it (Format), mounting, and the proof that
// written data has reached it (Sync, SuperblockGone).
//
// It never decides whether a device may be formatted: that takes the storage
// host's positive word and is the node workflow's business. It finds no
// devices and knows nothing of NVMe or CSI. Mounting is a system call and not
// a program: a program costs a fork in the path of every pod, and its errors
// are texts.
package filesystem
