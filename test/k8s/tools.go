//go:build tools

// Package k8s names the program with which the tests install the chart, so that
// go.mod and go.sum pin it. Nothing imports it.
package k8s

import _ "helm.sh/helm/v3/cmd/helm"
