// Package ipam has the words of the cluster-wide address management: who asks
// for which addresses (Request), what the objects behind them say (Space,
// Block, Claim), and the two interfaces between the parts: Allocator, which
// delegates ask, and Store, which keeps the objects.
//
// It holds values, names and errors: no I/O, no clock. The node's agent
// (ipam/agent) is the Allocator; ipam/crd and ipam/dir are Stores; ipam/model
// is the protocol between them.
//
// Its invariant: an object's name says the space and the address or block, and
// nothing else decides who has it. A name has one spelling.
package ipam
