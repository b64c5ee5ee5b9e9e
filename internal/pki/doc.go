// Package pki makes and checks the certificates with which the agent of a
// storage host, the controller and the nodes know each other: one private
// authority, three roles, TLS 1.3 with certificates on both sides.
//
// It does not revoke certificates: what has to end early ends with a new
// authority. It does not say what a role may do, nor which node a caller is:
// that is decided by the agent, from the token of a publication.
package pki
