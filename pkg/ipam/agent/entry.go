package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// Op says what an entry of the log changes.
type op string

const (
	opLife      op = "life"      // the node's present life; another boot ends all sandboxes
	opSpace     op = "space"     // a space's settings are known
	opReady     op = "ready"     // addresses of the block may be assigned
	opReturning op = "returning" // nothing more may be assigned in the block
	opGone      op = "gone"      // the block isn't ours any more
	opIntent    op = "intent"    // a claim is about to be created or taken over for the key
	opDrop      op = "drop"      // the key's intent came to nothing
	opGrant     op = "grant"     // the key has these addresses
	opHeld      op = "held"      // an address of the key has a claim
	opRelease   op = "release"   // the key has nothing any more
	opLeft      op = "left"      // a claim of a released address isn't ours any more
)

// entry is one record of the log, in JSON; which fields are set depends on Op.
type entry struct {
	Op op `json:"op"`
	// At is when it was ordered, by the clock of its boot.
	At      time.Duration  `json:"at"`
	Node    *ipam.Node     `json:"node,omitempty"`
	Space   *ipam.Space    `json:"space,omitempty"`
	Block   *ipam.BlockRef `json:"block,omitempty"`
	Suspect bool           `json:"suspect,omitempty"`
	Version *ipam.Version  `json:"version,omitempty"`
	Key     *ipam.Key      `json:"key,omitempty"`
	Record  *record        `json:"record,omitempty"`
	Claim   *ipam.ClaimRef `json:"claim,omitempty"`
}

// record is what one key has.
type record struct {
	Owner  ipam.Owner  `json:"owner"`
	Netns  string      `json:"netns,omitempty"`
	Keep   ipam.Keeper `json:"keep,omitzero"`
	Places []place     `json:"places"`
	// Since is by the wall clock, for people.
	Since time.Time `json:"since"`
	// Orphan: of claims that nobody was ever answered with.
	Orphan bool `json:"orphan,omitempty"`
	// Cooldown of its addresses; zero means the space's.
	Cooldown time.Duration `json:"cooldown,omitempty"`
}

// place is one address of a record: in a block of ours, with a claim, or both
// while a block is being shared.
type place struct {
	Space   string        `json:"space"`
	Addr    netip.Addr    `json:"addr"`
	InBlock bool          `json:"inBlock,omitempty"`
	Claim   *ipam.Version `json:"claim,omitempty"`
	Want    int           `json:"want"`
	Answer  *ipam.Address `json:"answer,omitempty"`
	suspect bool          // ask the wire before use
	joined  bool          // another sandbox of the same keeper has it too
	kept    bool          // it was the keeper's before this request
}

func (p place) ref() ipam.ClaimRef { return ipam.ClaimRef{Space: p.Space, Addr: p.Addr} }

func (e entry) encode() ([]byte, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("IPAM log: %s: %w", e.Op, err)
	}
	return data, nil
}

func decode(data []byte) (entry, error) {
	var e entry
	if err := json.Unmarshal(data, &e); err != nil {
		return entry{}, fmt.Errorf("IPAM log: a record can't be read, was it written by a newer version? %w", err)
	}
	return e, nil
}
