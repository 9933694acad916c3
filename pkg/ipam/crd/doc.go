// Package crd keeps the objects of the IPAM on a Kubernetes API server: Store
// is ipam.Store on the types of api/v1alpha1, Pools is ipam.Pools on IPPools.
//
// It decides nothing. Reads that matter are quorum reads; what comes from a
// watch cache or a watch is a hint by the contract of ipam.Store. It caches no
// block and no claim: a watch of the addresses in use is kept only for small
// ranges that are asked for, and only their names.
//
// Its invariant: what it says of a write is true. A write is sent once; it is
// sent again only after the API server refused to look at it (429), because a
// repetition that meets its own first try would call it stale or existing.
package crd
