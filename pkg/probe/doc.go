// Package probe asks the wire whether somebody uses an address already: by ARP
// probes (RFC 5227) for IPv4, and by the neighbor solicitations of duplicate
// address detection (RFC 4862) for IPv6, sent from the sandbox's interface
// before it has the address.
//
// It decides nothing about the address, and silence is no proof: a station
// that is off, or that a switch keeps away, doesn't answer. A router that
// answers for others (proxy ARP) makes every address look used; pools on such
// networks must not be probed.
//
// Invariant: the interface is left as it was found, up or down, without an
// address that it didn't have; also after an error or a cancelled context.
package probe
