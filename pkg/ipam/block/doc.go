// Package block is the arithmetic of one block of addresses as its node sees
// it: who has which address, which were freed how long ago, and which is next.
//
// It does no I/O and reads no clock: the caller logs what it decides, and
// brings the time as ticks of a clock that never goes back. It doesn't know
// ranges either: the caller says within which addresses it looks. Its
// invariant: every address of the block is either owned by exactly one key or
// stands exactly once in the queue of the free ones, which is in the order in
// which they became free.
package block
