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
	// With are the parts of the protocol that are not in every model, or'ed.
	With Feature
	// Without is the guard that is missing; Whole leaves all in place.
	Without Guard
}

// Feature is a part of the protocol, or a mishap, that multiplies the states.
type Feature uint8

// The features.
const (
	// Cooling: a released claim may become Cooling, and may be taken over.
	Cooling Feature = 1 << iota
	// LogLoss: an agent may lose its log in a boot; it counts as a crash.
	LogLoss
	// Import: at the start the block is Shared, sandbox 0 is live with address
	// 0, and an imported claim says so.
	Import
	// KeepPod: sandboxes 0 and 1 are lives of one pod that keeps its address.
	KeepPod
	// KeepClaim: sandboxes 0 and 1 belong to one IPAMClaim and may have its
	// address at once.
	KeepClaim
	// FromShared: at the start the block is Shared.
	FromShared

	everyFeature = 1<<iota - 1
)

// Check refuses a size that the packed states can't hold.
func (c Config) Check() error {
	if c.Addresses < 1 || c.Addresses > maxAddrs || c.Sandboxes < 1 || c.Sandboxes > maxBoxes ||
		c.Late < 0 || c.Late > maxLate || c.Crashes < 0 || c.Crashes > maxCrash ||
		c.With > everyFeature || c.With&KeepPod != 0 && c.With&KeepClaim != 0 || c.Without > lastGuard {
		return fmt.Errorf("model of %+v: give 1-%d addresses, 1-%d sandboxes, 0-%d late requests, 0-%d crashes, known features with at most one keeper, and a known guard",
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
	TakeBack                // a block of before a power loss is taken back before it is used
	OwnerCollects           // nobody else deletes a claim of a node that isn't fenced
	FenceOnlyDead           // a fenced node has no power
	ReturningIsClosed       // nothing is assigned in a block that is being returned
	BootCounts              // objects of the time before a power loss are foreign
	RealOwner               // an existing claim is adopted only if it names this sandbox
	ReturningReread         // a block that was being returned is read before anything after a start
	CoolingOnly             // a claim that is Bound is never taken over
	TakeVersion             // the UPDATE that takes over carries the version
	CoolVersion             // the UPDATE to Cooling or Kept carries the version
	ScanReadsFirst          // the scan reads the claims, then looks into the log
	OldLogUnused            // the block of a lost log isn't taken back in the same boot
	OldLogStays             // the scan leaves the claims of a lost log alone in the same boot
	OldLogCollected         // the controller leaves them alone, and the block
	ImportStays             // an imported claim isn't freed before it is adopted
	AdoptIntent             // the intent is logged before an imported claim is updated
	KeeperOnly              // only its keeper takes a Kept claim
	KeptStays               // a claim with a keeper becomes Kept, whoever frees it
	ForgetUnused            // a keeper that is gone has no sandbox
	OwnReply                // a reply is for the record that asked, not for a later one of the same sandbox
	AskAgain                // an ADD doesn't answer from the record of an IPAMClaim's claim that is older than it

	lastGuard = AskAgain
)

// String is the rule as a person would say it.
func (g Guard) String() string {
	return [...]string{
		"nothing is left out",
		"claim only in a Shared block", "Shared is final", "return only without held claims",
		"return only without assigned addresses", "demote only with a claim for each live address",
		"UID on DELETE", "resourceVersion on DELETE", "touch before adopting a claim",
		"touch before adopting a block", "touch before cancelling a return", "log before reply",
		"take a block back after a power loss", "only the owner collects", "fence only a dead node",
		"assign nothing while returning", "objects of an older boot are foreign", "adopt only the own claim",
		"read a returning block after a start", "never take over a Bound claim", "version on the UPDATE that takes over",
		"version on the UPDATE to Cooling", "read the list before the log", "a lost log's block is not taken back",
		"a lost log's claims are not scanned", "a lost log's objects are not collected", "an imported claim is not scanned",
		"intent before adopting", "only the keeper takes a Kept claim", "a claim with a keeper becomes Kept",
		"forget a keeper only without sandboxes", "a reply is for the record that asked", "ask again for an adopted claim of an IPAMClaim",
	}[g]
}

// Kind says which invariant a state breaks.
type Kind uint8

// The kinds of violation.
const (
	None        Kind = iota
	Duplicate        // I1: two live sandboxes have one address
	Unprotected      // I2: no block and no claim keeps others from a live address
	Stolen           // a live address is kept for somebody else
)

// String is the kind in words.
func (k Kind) String() string {
	return [...]string{"no violation", "duplicate address", "unprotected live address", "address kept for another"}[k]
}

// broken is the first invariant that doesn't hold in s.
func (s *state) broken(c *Config) Kind {
	verdict := None
	for i := range s.boxes {
		b := &s.boxes[i]
		if b.life != live {
			continue
		}
		for j := range i {
			together := c.With&KeepClaim != 0 && c.keeper(uint8(i)) && c.keeper(uint8(j))
			if s.boxes[j].life == live && s.boxes[j].addr == b.addr && !together {
				return Duplicate
			}
		}
		claim := s.claims[b.addr]
		switch {
		case claim.mode != noClaim && claim.keep && !c.keeper(uint8(i)):
			verdict = Stolen
		case !s.covered(c, uint8(i)):
			verdict = Unprotected
		}
	}
	return verdict
}

// covered says whether an object keeps others from the address of a live
// sandbox.
func (s *state) covered(c *Config, i uint8) bool {
	b, n := &s.boxes[i], home(i)
	claim := s.claims[b.addr]
	return s.mine(n) && b.record == assigned && b.recordAddr == b.addr ||
		s.claimOf(b.addr, i) || s.boundTo(b.addr, i, imported) ||
		b.lost && (s.leasedBy(n, lostLog) || s.boundTo(b.addr, i, lostLog)) ||
		c.With&KeepClaim != 0 && claim.keep && c.keeper(i) && (claim.mode == bound || claim.mode == kept)
}

// keeper says whether the sandbox is one of the keeper's.
func (c *Config) keeper(box uint8) bool { return c.With&(KeepPod|KeepClaim) != 0 && box < 2 }

// initial has both nodes up and nothing else, but for what With says.
func (c *Config) initial() state {
	var s state
	for i := range s.nodes {
		s.nodes[i].power = up
	}
	if c.With&(FromShared|Import) != 0 {
		s.block.mode = shared
	}
	if c.With&Import != 0 {
		s.claims[0] = claimObject{mode: bound, age: imported, keep: c.keeper(0)}
		s.boxes[0].life = live
	}
	return s
}
