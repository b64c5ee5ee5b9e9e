// Package control is how an operator on a node speaks to the node plugin: over a
// socket that only root can open, with JSON over HTTP. The plugin tells what it
// has staged and how each volume is, and gives one volume up when it is told to.
//
// It decides nothing: what is asked is carried out by whoever serves it. It is
// not for other machines and not for Kubernetes.
package control
