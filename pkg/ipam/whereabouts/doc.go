// Package whereabouts takes over the addresses of a Whereabouts installation
// while its pods run, and lets both allocate in the same ranges for as long as
// the change lasts.
//
// It is not an allocator and keeps nothing itself: Survey reads Whereabouts'
// objects, Plan says what is to be done, Apply does it through an ipam.Store,
// and WithReservations is a Store that speaks to Whereabouts besides. Objects
// of Whereabouts are changed by WithReservations and Mend only.
//
// # Taking over
//
// Each entry of an IPPool becomes an IPClaim in a Shared block. The claim of a
// pod that exists is Bound, with the node's name and an empty Log: the agent of
// that node takes it over. Its key is what the runtime's DEL will say:
// container, interface, and the `name` of the CNI configuration. Where the last
// two can't be known they are Unknown, and a DEL finds the claim by container
// (and interface) alone. Entries of pods that are gone cool down. What can't be
// read, or is told differently by two objects, is a Finding and never stops the
// rest. Every step may be repeated: Apply, killed anywhere, is run again.
//
// # Side by side
//
// Whereabouts takes an address if there is no OverlappingRangeIPReservation of
// its name, so that name decides between it and us, and the IPClaim decides
// among us. A reservation of ours has the label of Marked; its pod is the
// claim's owner, else Whereabouts' reconciler would delete it. The rule: an
// address with a claim in use has a marked reservation, and it was there, at
// the version that the claim's maker wrote, after the claim was made. Killed
// after
//
//   - the reservation is made: it is left over. Anyone of us who wants the
//     address takes it by an update; Mend deletes it after a while.
//   - the claim is made: the claim is met by the node's agent, which touches it
//     before it is used; that makes sure of the reservation again.
//   - the claim is deleted: the reservation is left over, as above.
//   - the reservation is given the new owner of a Cooling claim, but the claim
//     isn't: it names the wrong pod and still keeps Whereabouts away. The next
//     who updates or meets the claim sets it right, as does Mend.
//
// What it can't hold: Whereabouts deletes reservations without a look at whose
// they are (its ADD that lost a race is followed by such a DEL), and gives a
// pod of the same name and interface the address of one that still runs. Mend,
// called often, makes the first short. With enable_overlapping_ranges: false
// Whereabouts has no reservations: such ranges can be taken over only after
// Whereabouts stopped.
package whereabouts
