// Package events tells people what happens to their volumes where they look first:
// as Kubernetes events of the PersistentVolumeClaim, and of the node for its
// connections to storage hosts. One event for an outage that lasts, one for its end,
// one for whatever needs somebody.
//
// It decides nothing about volumes, keeps nothing over a restart, and nobody waits
// for it: a cluster that does not answer is told later what is still so then.
package events
