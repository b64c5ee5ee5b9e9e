// Package cluster puts Holdfast to work in virtual machines: storage hosts with
// the agent, nodes with the node plugin, and a controller on this machine. It
// plays the provisioner, the attacher and the kubelet, in their order of calls.
//
// It holds no tests; demo, bench and the end-to-end tests are written with it.
package cluster
