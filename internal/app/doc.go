// Package app is where Holdfast is put together: it reads flags and files,
// builds the concrete parts, and serves. It is the only package that names
// them all, so reading it is reading the architecture.
//
// It decides nothing about volumes.
package app
