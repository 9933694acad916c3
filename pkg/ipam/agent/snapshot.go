package agent

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/block"
)

// snapshot is the encoded state.
type snapshot struct {
	Node ipam.Node `json:"node"`
	// At is when it was made, by the clock of its boot.
	At      time.Duration      `json:"at"`
	Spaces  []ipam.Space       `json:"spaces"`
	Blocks  []snapshotBlock    `json:"blocks"`
	Records []*record          `json:"records"`
	Intents []*record          `json:"intents"`
	Cooling []snapshotCoolings `json:"cooling"`
}

type snapshotBlock struct {
	Ref     ipam.BlockRef `json:"ref"`
	Stage   stage         `json:"stage"`
	Version ipam.Version  `json:"version"`
	Suspect bool          `json:"suspect,omitempty"`
	Data    []byte        `json:"data"`
}

type snapshotCoolings struct {
	Ref     ipam.ClaimRef `json:"ref"`
	Version ipam.Version  `json:"version"`
	Owner   ipam.Key      `json:"owner"`
	Keep    ipam.Keeper   `json:"keep,omitzero"`
	// Due is when the address may be used again, by the clock of the boot.
	Due time.Duration `json:"due"`
}

// encode gives the state one form, whatever the order of its maps.
func (s *state) encode(now time.Duration) ([]byte, error) {
	out := snapshot{Node: s.node, At: now}
	for _, name := range sortedBy(s.spaces, func(n string) string { return n }) {
		out.Spaces = append(out.Spaces, s.spaces[name])
	}
	for _, space := range sortedBy(s.bySpace, func(n string) string { return n }) {
		for _, b := range s.bySpace[space] {
			out.Blocks = append(out.Blocks, snapshotBlock{b.ref, b.stage, b.version, b.suspect, b.block.Encode(ticks(now))})
		}
	}
	for _, key := range sortedBy(s.records, ipam.Key.String) {
		out.Records = append(out.Records, s.records[key])
	}
	for _, key := range sortedBy(s.intents, ipam.Key.String) {
		out.Intents = append(out.Intents, s.intents[key])
	}
	for _, ref := range sortedBy(s.cooling, ipam.ClaimRef.String) {
		c := s.cooling[ref]
		out.Cooling = append(out.Cooling, snapshotCoolings{ref, c.version, c.owner, c.keep, c.due})
	}
	return json.Marshal(out)
}

// sortedBy are the keys of m in the order of their texts.
func sortedBy[K comparable, V any](m map[K]V, text func(K) string) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b K) int {
		if text(a) < text(b) {
			return -1
		}
		return 1
	})
	return keys
}

// decodeState is the reverse of encode; cool-downs that were under way in a
// block begin anew at the time of the snapshot; all do so at the boot if that is
// another one.
func decodeState(data []byte, boot string) (*state, error) {
	s := newState()
	if data == nil {
		return s, nil
	}
	var in snapshot
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("IPAM log: its snapshot can't be read: %w", err)
	}
	now := in.At
	if in.Node.Boot != boot {
		now = 0
	}
	s.node = in.Node
	for _, sp := range in.Spaces {
		s.spaces[sp.Name] = sp
	}
	for _, b := range in.Blocks {
		decoded, err := block.Decode(b.Data, ticks(now))
		if err != nil {
			return nil, fmt.Errorf("IPAM log: block %s: %w", b.Ref, err)
		}
		kept := &held{ref: b.Ref, stage: b.Stage, version: b.Version, suspect: b.Suspect, block: decoded, since: ticks(now), dirty: true}
		s.list(kept)
	}
	for _, r := range in.Records {
		s.record(r)
		for _, p := range r.Places {
			if p.Claim != nil {
				s.owners[p.ref()] = r.Owner.Key
			}
		}
	}
	for _, r := range in.Intents {
		s.intents[r.Owner.Key] = r
	}
	for _, c := range in.Cooling {
		due := c.Due
		if in.Node.Boot != boot {
			due = s.cooldown(c.Ref.Space)
		}
		s.cooling[c.Ref] = &cooling{version: c.Version, owner: c.Owner, keep: c.Keep, due: due}
	}
	return s, nil
}
