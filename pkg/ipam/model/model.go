package model

import "fmt"

// Config is the size of a model and the guard that is taken out of it.
type Config struct {
	// Addresses of the block, 1 or 2.
	Addresses int
	// Sandboxes, 1 to 3: the second is on the other node than the first and
	// the third.
	Sandboxes int
	// Late is how many requests may be on their way with nobody waiting for
	// them, 0 to 2.
	Late int
	// Crashes is how often an agent is killed or a node loses power, 0 to 7.
	Crashes int
	// Without is the guard that is missing; Whole leaves all in place.
	Without Guard
}

// Check refuses a size that the packed states can't hold.
func (c Config) Check() error {
	if c.Addresses < 1 || c.Addresses > maxAddrs || c.Sandboxes < 1 || c.Sandboxes > maxBoxes ||
		c.Late < 0 || c.Late > maxLate || c.Crashes < 0 || c.Crashes > maxCrash || c.Without > RealOwner {
		return fmt.Errorf("model of %+v: give 1-%d addresses, 1-%d sandboxes, 0-%d late requests, 0-%d crashes and a known guard",
			c, maxAddrs, maxBoxes, maxLate, maxCrash)
	}
	return nil
}

// Guard is one rule of the protocol that can be left out, to see what it is
// there for.
type Guard uint8

// The guards.
const (
	Whole             Guard = iota
	ClaimNeedsShared        // an address is claimed only in a block known to be Shared
	SharedIsFinal           // nobody deletes a Shared block, not even an empty one
	ReturnNeedsNoHeld       // a block is returned only when no held claim lives in it
	ReturnNeedsNoUse        // a block is returned only when no address of it is assigned
	DemoteNeedsClaims       // a block becomes Shared only when each live address has its claim
	DeleteUID               // DELETE carries the UID
	DeleteVersion           // DELETE carries the resourceVersion
	TouchClaim              // an own claim that was found is touched before it is used
	TouchBlock              // an own block that was found is touched before it is used
	TouchCancel             // a return is cancelled by a touch
	LogBeforeReply          // the record is synced before ADD is answered
	ValidateReturn          // an agent that starts checks that the block is still its own
	OwnerCollects           // nobody else deletes a claim of a node that isn't fenced
	FenceOnlyDead           // a fenced node has no power
	ReturningIsClosed       // nothing is assigned in a block that is being returned
	EpochCounts             // objects of the time before a power loss are foreign
	RealOwner               // an existing claim is adopted only if it names this sandbox
)

// String is the rule as a person would say it.
func (g Guard) String() string {
	return [...]string{
		"nothing is left out",
		"claim only in a Shared block", "Shared is final", "return only without held claims",
		"return only without assigned addresses", "demote only with a claim for each live address",
		"UID on DELETE", "resourceVersion on DELETE", "touch before adopting a claim",
		"touch before adopting a block", "touch before cancelling a return", "log before reply",
		"validate after a start", "only the owner collects", "fence only a dead node",
		"assign nothing while returning", "objects of an older epoch are foreign", "adopt only the own claim",
	}[g]
}

// Kind says which invariant a state breaks.
type Kind uint8

// The kinds of violation.
const (
	None        Kind = iota
	Duplicate        // I1: two live sandboxes have one address
	Unprotected      // I2: no block and no claim keeps others from a live address
)

// String is the kind in words.
func (k Kind) String() string {
	return [...]string{"no violation", "duplicate address", "unprotected live address"}[k]
}

// broken is the first invariant that doesn't hold in s.
func (s *state) broken() Kind {
	verdict := None
	for i := range s.boxes {
		b := &s.boxes[i]
		if b.life != live {
			continue
		}
		for j := range i {
			if s.boxes[j].life == live && s.boxes[j].addr == b.addr {
				return Duplicate
			}
		}
		n := home(uint8(i))
		byBlock := s.mine(n) && b.record == assigned && b.recordAddr == b.addr
		if !byBlock && !s.claimOf(b.addr, uint8(i)) {
			verdict = Unprotected
		}
	}
	return verdict
}

// initial has both nodes up and nothing else.
func (c *Config) initial() state {
	var s state
	for i := range s.nodes {
		s.nodes[i].power = up
	}
	return s
}
