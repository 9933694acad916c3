// Package model is the protocol of the cluster-wide IPAM with everything left
// out that it doesn't need to go wrong, and a checker that tries all that can
// happen. The code of the IPAM is held against it: a change of the protocol is
// made here first. It has no I/O, and no program imports it.
//
// # What is in the model
//
// Two nodes, one block, one or two addresses, two or three sandboxes. Each node
// has an agent with a synced log, and runs the sandboxes that are its own.
//
//   - The API has one block object and one claim object for each address. A
//     block is absent, Leased by a node, or Shared, and that for ever. A claim
//     names a sandbox. CREATE is refused when the name is taken, and that alone
//     decides who has the block or the address.
//   - A request goes in three steps: sent, applied, reply handled. Between any
//     two of them everything else may happen. Its sender may give up before or
//     after it is applied; one that was given up may be applied at any later
//     time, or never, whether its sender lives or not.
//   - UPDATE, touch (an UPDATE that changes nothing but the resourceVersion)
//     and DELETE name the UID and resourceVersion of the object that was read.
//     Such a reference matches, or never matches again; the model keeps that
//     and no numbers, so that its states are finite without a bound on time.
//   - The log has one record for the block (none, ready, returning) and one for
//     each sandbox (none, assigned, intent, held). A record is synced in one
//     step: before it, it isn't there after a crash, after it, it is.
//   - An agent may be killed at any time and starts again with its log and
//     nothing else. A node may lose power: its sandboxes are gone, the log
//     isn't. When it comes back it has a new epoch.
//
// # The protocol
//
//   - Take a block: CREATE Leased; 201 → log ready. "Already exists" and mine:
//     touch, then log ready.
//   - ADD, leased: log assigned → answer. No request at all.
//   - ADD, claim: only when the block is known to be Shared, however old that
//     knowledge is: log intent → CREATE claim → log held → answer. "Already
//     exists" and mine: touch, then held. Another's: another address.
//   - DEL: log the release → answer. The claim is deleted later by the scan: an
//     own claim that no record speaks of.
//   - Leave a block: log returning, assign nothing more. Then DELETE it when
//     there are neither assigned addresses nor held claims; or demote it: a
//     claim for each assigned address (whose record is held from then on), then
//     UPDATE to Shared; or cancel: touch, then log ready.
//   - Start: the records of sandboxes that are gone are dropped; a block that
//     isn't there any more, or isn't of this node and epoch, is dropped. What
//     is left of an older epoch may be taken back, empty: the block by an
//     UPDATE of its epoch, claims by the scan, which deletes them.
//   - The controller deletes the objects of nodes without power and of older
//     epochs, nothing else.
//
// # What is checked
//
// I1, no two live sandboxes have one address, and I2, each live address is
// covered (by a Leased block of the node and epoch with a record, or by a claim
// with this owner), in every state. I9, a clean state can always be reached
// again, and a sandbox can always be served, by Reach. A sandbox is live from
// the answer to ADD until DEL is invoked.
//
// Every guard of the protocol can be left out (Config.Without). The tests say
// what then goes wrong; a guard whose loss nobody sees is not tested.
//
// # What is not in the model
//
// More than one block (an own block that a late CREATE made is met again here
// by the next CREATE; where there are many, the scan has to look for it),
// cool-down and the taking of cooling claims, persistent claims that move
// between nodes, loss of the disk, the time-out after which a cut-off agent
// stops (a node that is fenced is off here, and nothing else).
// An agent has one request at a time. A GET is one step with what is done with
// its result, except that a request sent on it may be late.
package model
