// Package integration holds the end-to-end tests: the cosentry binary, as
// built, between a kubelet's calls and a real containerd.
package integration
