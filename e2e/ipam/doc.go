// Package ipam has the tests of the address management that need a real API
// server: the rules of its objects, and the store on them. They carry the tag
// e2e and need no rights.
package ipam
