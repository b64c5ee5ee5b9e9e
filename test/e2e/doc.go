// Package e2e tests the whole product in virtual machines: a storage host with
// the agent, a node with the node plugin, and a controller. Each test proves one
// promise on the real kernel, and each ends by looking for anything left behind.
//
//	HOLDFAST_KERNEL=6.1 go test -tags vm -count=1 -timeout 40m ./test/e2e
//
// It contains tests only; what drives the machines is in test/cluster.
package e2e
