// Package annotation reads what a pod asks for and writes what it got: the
// networks annotation and the network-status annotation of the Network
// Plumbing Working Group's multi-net-spec v1.3.
//
// It is pure: values in, values or an error out. Whatever Parse accepts is
// valid and in one canonical spelling, so that the floors above may use it as
// a name, an address or an argument without a second look; every error names
// the element, the key, the value and the remedy.
package annotation
