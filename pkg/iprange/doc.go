// Package iprange is arithmetic on addresses: ranges, sets of ranges, the grid
// of blocks and the names of their objects, for IPv4 and IPv6 alike. It reads
// what people and network definitions write (CIDR, a-b/prefix, a-b, exclusions)
// and tells which addresses of it are usable.
//
// It knows nothing of who holds an address, and keeps no state. Its invariant:
// every Range has both ends in one family, first ≤ last, no zone and no
// IPv4-mapped IPv6 address; every Set is sorted, and its ranges neither overlap
// nor touch. What String prints, the parser of that type reads back to the same
// value.
package iprange
