// Package agent is the address allocator of one node: it leases blocks and
// claims addresses through a Store, and hands them out from a synced local log.
//
// An ADD in a block that the node holds needs no call of the store: one record
// in the log, then the answer. An address in a block that several nodes share is
// one CREATE of a claim, with a record before and one after it. A DEL is one
// record. Everything else (the next block, claims to delete, blocks to give
// back or to share, dead sandboxes) happens beside the requests, in Run.
//
// What it is not: it decides nothing by the clock of the wall or by an old
// read, takes no lock in the store, and knows nothing of Kubernetes.
//
// Invariants, with the model's names (package ipam/model): no two live
// sandboxes of a space have one address (I1); a live address lies in a Leased
// block of this life of the node with a record in the log, or has a claim with
// this owner (I2); a record is on the disk before its answer, an intent before
// its CREATE, "returning" before a block's DELETE or UPDATE (I3); a claim or
// block is removed only by its node, with UID and resourceVersion (I4); what a
// restart reads from its log is what was there before it.
package agent
