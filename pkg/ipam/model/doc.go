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
//     is Bound to a sandbox, Cooling (anybody may have the address next) or
//     Kept (its keeper may). CREATE is refused when the name is taken, and that
//     alone decides who has the block or the address.
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
//     isn't. When it comes back it has a new boot. The log itself may be lost
//     while the sandboxes live on; the new one has another name. Objects say
//     the boot and the log that they are of.
//
// # The protocol
//
//   - Take a block: CREATE Leased; 201 → log ready. "Already exists" and mine:
//     touch, then log ready.
//   - ADD, leased: log assigned → answer. No request at all.
//   - ADD, claim: only when the block is known to be Shared, however old that
//     knowledge is: log intent → CREATE claim → log held → answer. "Already
//     exists" and mine: touch, then held. Cooling: UPDATE to mine, then held; a
//     lost reply makes it mine. Another's: another address.
//   - DEL: log the release → answer. The claim is freed later by the scan: an
//     own claim, in a list read first, that no record in the log speaks of
//     then. To free is UPDATE to Cooling and DELETE later, or DELETE at once;
//     for a claim with a keeper it is UPDATE to Kept.
//   - Leave a block: log returning, assign nothing more. Then DELETE it when
//     there are neither assigned addresses nor held claims; or demote it: a
//     claim for each assigned address (whose record is held from then on), then
//     UPDATE to Shared; or cancel: touch, then log ready.
//   - Start in the same boot: a ready block is used as it is, before anything is
//     read: only a node without power loses its objects to others. One that is
//     being returned is read first.
//   - Start in another boot: the records of sandboxes that are gone are dropped,
//     and so is the block. What is left of an older boot may be taken back,
//     empty: the block by an UPDATE of its boot, claims by the scan.
//   - Start with a new log in the same boot: what the lost log made covers
//     sandboxes that may live. It is neither used nor freed, by anybody, before
//     the next boot.
//   - An imported claim names a sandbox and no log. It is adopted: log intent →
//     UPDATE → log held, whether its sandbox is still there or not; then it is
//     like any other, and the record of one that isn't there is released.
//   - A keeper's sandboxes have claims only. Kept → UPDATE by one of them. The
//     keeper may be a pod, whose next life may be on another node, or an
//     IPAMClaim: its sandboxes may have the address at once, each takes the
//     claim over, Bound or Kept, and a Bound or Kept claim covers all of them,
//     whichever it names. A later ADD of the same sandbox asks again, and no
//     reply to an earlier one counts. It is freed when the keeper is gone, and a keeper
//     that is gone has no sandbox.
//   - The controller frees the objects of nodes without power and of older
//     boots, nothing else.
//
// # What is checked
//
// I1, no two live sandboxes have one address (but for those of an IPAMClaim);
// I2, each live address is covered (by a Leased block of the node, boot and log
// with a record, by a claim with this owner, or by what a lost log made); no
// live address is Kept for another; in every state. I9, a clean state can
// always be reached again, and a sandbox can always be served, by Reach. A
// sandbox is live from the answer to ADD until DEL is invoked.
//
// Every guard of the protocol can be left out (Config.Without). The tests say
// what then goes wrong; a guard whose loss nobody sees is not tested. Cooling,
// lost logs, imports and keepers multiply the states, so each is a Feature that
// small models have alone, bigger ones with others, and random walks all at
// once.
//
// # What is not in the model
//
// More than one block (an own block that a late CREATE made is met again here
// by the next CREATE; where there are many, the scan has to look for it), time
// (a cool-down is over at any moment), which of several Cooling claims is
// taken, the time-out after which a cut-off agent stops (a node that is fenced
// is off here, and nothing else), an import while agents allocate in the block.
// An agent has one request at a time. A GET is one step with what is done with
// its result, except that a request sent on it may be late.
package model
