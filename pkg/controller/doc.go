// Package controller is the inside of meta-cni-controller: one a cluster
// (leader-elected), without a state of its own. It takes blocks and claims from
// nodes that are certainly dead, lets go of addresses that are kept for nobody,
// deletes what has cooled down and belongs to no node, counts for people, and
// mends the reservations of spaces beside Whereabouts.
//
// It is not needed for a pod to get or give back an address, and never decides
// about a sandbox of a node that may live: pods that finished but still exist,
// pods deleted by force, rebooted nodes are the business of the node's agent,
// which can look whether the sandbox is there. The controller only tells of
// claims that nobody seems to release.
//
// # When a node is dead
//
// Its Node object of that UID is gone, or another one has its name and another
// boot ID, for Times.Gone; or it isn't Ready and has the taint
// node.kubernetes.io/out-of-service, which a person or a cloud provider sets for
// a machine that is certainly off, for Times.OutOfService. And no pod with its
// name in spec.nodeName exists; with another Node of that name, pods older than
// it count, with the taint, pods of DaemonSets and mirrors of static pods don't
// (they stay for ever). All that is read live from the API server, just before
// it is acted upon. NotReady is never enough; an error is a node that lives.
// Times are counted by this process since it saw the condition, by the monotonic
// clock: a new leader waits anew.
//
// A Node that is registered anew in the boot in which it was deleted is the same
// machine with the same sandboxes: its agent writes the new UID into all it has.
//
// # What becomes of what it had
//
//   - A Leased block: no owner, Suspect. Any agent may take it, by an update.
//   - A Bound claim: Cooling and Suspect without a node; Kept and Suspect if it
//     is kept for someone.
//   - A Cooling claim without a node is deleted when it didn't change for
//     Times.Cooling.
//   - A Kept claim becomes Cooling when its keeper is gone; see Times.Keeper.
//
// Its invariant: every write names the UID and resourceVersion of what was
// read live after the decision's evidence, so that whatever else happened to
// the object wins. Two controllers at once, one cut off in the middle of a pass
// or one with an old cache do no harm.
package controller
