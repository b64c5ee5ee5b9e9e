//go:build tools

// Package kwok names the program that plays the nodes of a simulated cluster, so
// that go.mod and go.sum pin it. It is a module of its own, because its requirements
// clash with those of Kubernetes. Nothing imports it.
package kwok

import _ "sigs.k8s.io/kwok/cmd/kwok"
