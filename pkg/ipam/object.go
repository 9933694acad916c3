package ipam

import (
	"net/netip"
	"time"

	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// Mode says how the addresses of a space are given out.
type Mode string

const (
	// Auto leases blocks to nodes where a range has at least four for each
	// node, and claims single addresses elsewhere.
	Auto Mode = "auto"
	// Blocks leases always.
	Blocks Mode = "blocks"
	// Claims never leases.
	Claims Mode = "claims"
)

// DefaultCooldown is how long a released address rests where nothing else is
// said.
const DefaultCooldown = 60 * time.Second

// Version is what a conditional write names: the UID and resourceVersion of
// the object as it was read or written last.
type Version struct {
	UID      string `json:"uid,omitempty"`
	Resource string `json:"resource,omitempty"`
}

// Space is an address space: no two owners in it have the same address.
type Space struct {
	// Name is a DNS label; see SpaceName.
	Name string `json:"name"`
	// Grid is fixed when the space is made: it decides the blocks' names.
	Grid iprange.Grid `json:"grid"`
	Mode Mode         `json:"mode,omitempty"`
	// Cooldown of released addresses; zero means DefaultCooldown.
	Cooldown time.Duration `json:"cooldown,omitempty"`
	// MaxBlocks bounds the blocks that one node leases; 0 means no bound.
	MaxBlocks int `json:"maxBlocks,omitempty"`
	// Whereabouts says that Whereabouts allocates in the same ranges at the
	// same time: each claim has a reservation of its kind beside it, and no
	// block is leased.
	Whereabouts bool    `json:"whereabouts,omitempty"`
	Version     Version `json:"version,omitzero"`
}

// BlockMode is the state of a block; no object means that it is free.
type BlockMode string

const (
	// Leased: its node alone allocates in it, from its log.
	Leased BlockMode = "Leased"
	// Shared: each address is a claim. It is final.
	Shared BlockMode = "Shared"
)

// BlockRef names a block.
type BlockRef struct {
	Space  string       `json:"space"`
	Prefix netip.Prefix `json:"prefix"`
}

// String is the object's name, space.block: default.10.0.0.64-26.
func (r BlockRef) String() string { return r.Space + "." + iprange.BlockName(r.Prefix) }

// Block is an IPBlock.
type Block struct {
	Ref  BlockRef
	Mode BlockMode
	// Owner of a Leased block; zero for a Shared one.
	Owner Node
	// Suspect says that a node that is believed dead had it: each address is
	// asked for on the wire before it is used for the first time.
	Suspect bool
	Version Version
}

// ClaimRef names a claim.
type ClaimRef struct {
	Space string     `json:"space"`
	Addr  netip.Addr `json:"addr"`
}

// String is the object's name, space.address: default.10.0.0.65.
func (r ClaimRef) String() string { return r.Space + "." + iprange.Name(r.Addr) }

// ClaimState is what a claim is at present.
type ClaimState string

const (
	// Bound: a sandbox has the address.
	Bound ClaimState = "Bound"
	// Cooling: nobody has it; it may be taken over by an update, oldest first,
	// where nothing else is free, and is deleted in the end.
	Cooling ClaimState = "Cooling"
	// Kept: nobody has it, and only its keeper may.
	Kept ClaimState = "Kept"
)

// Claim is an IPClaim: one address in a Shared block.
type Claim struct {
	Ref   ClaimRef
	State ClaimState
	// Node that the owner runs on. With an empty Log the claim was imported and
	// no agent has taken it over yet.
	Node  Node
	Owner Owner
	// Keep is whom the address is kept for.
	Keep Keeper
	// Pool for people to read.
	Pool string
	// Suspect is as in Block.
	Suspect bool
	// Since is when the present state began, by its writer's wall clock: for
	// people, and to choose the oldest.
	Since   time.Time
	Version Version
}

// Usage is what a node tells of one of its Leased blocks, for people.
type Usage struct {
	Ref    BlockRef
	Bitmap []byte
	Owners []AddressOwner
	// At is when it was true, by the node's wall clock.
	At      time.Time
	Version Version
}

// AddressOwner is one line of a Usage.
type AddressOwner struct {
	Addr  netip.Addr
	Owner Owner
	Since time.Time
}
