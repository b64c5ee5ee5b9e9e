// Package shutdown hears from logind, over D-Bus, that the machine is about to go
// down, while its network is still up: it holds a delay lock, and when
// PrepareForShutdown comes it has the time that logind gives to those who hold one.
// The kubelet does the same.
//
// It does nothing about volumes: what has to be done is given to it. A machine
// without logind, or a container without its socket, is one in which a shutdown
// comes as a surprise; that is said once. It takes no lock that blocks, and it
// starts no shutdown.
package shutdown
