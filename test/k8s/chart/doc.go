// Package chart tests the Helm chart without a cluster: that it renders, into objects
// that the Kubernetes API knows to the last field, with flags that the binary knows,
// and that it refuses what cannot work.
package chart
