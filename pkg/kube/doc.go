// Package kube is everything that talks to the Kubernetes API server: the
// pods of this node and the network definitions as caches, the patch of a
// pod's status, and Events.
//
// It holds what the daemon needs of an object and nothing else (pods are read
// as metadata only), and it never needs the API server to have been reached:
// definitions seen before are read from a synced copy on disk. No answer from
// here is empty because something went wrong: it is an error that says whether
// it will last.
package kube
