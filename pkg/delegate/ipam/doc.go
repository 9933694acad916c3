// Package ipamdelegate is the IPAM plugin as a delegate: it answers to the
// names meta-ipam and whereabouts. What the configuration means is decided by
// ipam/netconf, who gets which address by the Allocator; this package calls
// one after the other and puts their words into CNI's.
//
// It keeps no addresses and touches neither kernel nor disk.
//
// Its invariant: ADD gives all addresses or none; DEL releases what its
// container ID and interface hold even if its configuration can't be read;
// CHECK and STATUS change nothing.
package ipamdelegate
