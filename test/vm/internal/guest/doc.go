// Package guest is the init program of the harness's virtual machines: it mounts what a Linux system needs, loads kernel
// modules, configures the network, mounts the data disk, and then carries out the harness's requests.
//
// Process 1 only starts and reaps: the work is done by a child, the worker, so that reaping strangers never steals the
// exit status of a program that the worker waits for. The package is no service manager: nothing is restarted.
package guest
