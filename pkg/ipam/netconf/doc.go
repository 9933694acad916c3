// Package netconf reads what an IPAM plugin is given: its standard input, with
// the keys of Whereabouts and of meta-ipam, CNI_ARGS, and the flat file of
// Whereabouts. Parse checks it, Config.Plan adds the declared pools that it
// names and says what to ask the Allocator for, Plan.Result makes the CNI
// result of what was granted.
//
// It is pure: no I/O, no clock, the same input gives the same plan. It gives
// no address away and knows nothing of who holds one.
//
// Its invariant: each Want of a Plan has at least one usable address in each
// of its ranges, all of one family and inside of their subnets, and none of
// them is an address that the result has anyway. Every key that was written
// and does nothing has its note; an error wraps ipam.ErrInvalid and names the
// key.
//
// Where it leaves Whereabouts on purpose:
//   - range and ipRanges of the flat file are for definitions that have no
//     addresses of their own; they don't leak into others.
//   - CNI_ARGS IP=, runtimeConfig.ips and args.cni.ips that lie in a range are
//     allocated, instead of being added beside an address of the range. What
//     a range keeps back, and what is in none, a pod's author gets only where
//     the definition declares the capability ips.
//   - a gateway goes to the addresses of its own family only.
//   - addresses that the result has anyway (key "addresses") are not given away.
//   - /31, /32, /127 and /128 are usable.
package netconf
