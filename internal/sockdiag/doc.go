// Package sockdiag ends TCP connections that are being made (sock_diag(7),
// SOCK_DESTROY, Linux 4.5 with CONFIG_INET_DIAG_DESTROY).
//
// The kernel's NVMe host sends a SYN at 0 and 1 s of an attempt to connect and
// gives it up after 3 s (TCP_SYNCNT 1, tcp.c). Whoever knows that the other side
// answers by now can end an attempt whose SYNs were lost, and the next one begins.
//
// It touches nothing that is connected, and decides nothing.
package sockdiag
