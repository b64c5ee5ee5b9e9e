// Package arch holds the rules of who may import whom. They are what keeps a
// part of the tree understandable without the rest of it.
package arch
