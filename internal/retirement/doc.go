// Package retirement deals with storage hosts that were declared gone for good. While
// such a host is silent, a withdrawal or deletion of what it held is done by saying so,
// or Kubernetes could never let go of it; nothing new is asked of it; and should it come
// back, it is told that it is not wanted, and exports nothing until it is admitted.
//
// It does not decide that a host is gone: people do (`holdfast retire`). It gives up no
// volume on a node (internal/giveup), and it deletes nothing of a host that answers
// without being asked to.
package retirement
