package whereabouts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// Existing are our own objects, as far as the wanted ones meet them.
type Existing struct {
	Blocks map[ipam.BlockRef]ipam.Block
	Claims map[ipam.ClaimRef]ipam.Claim
}

// Plan is what is left to be done, in order.
type Plan struct {
	Spaces []SpacePlan
	// Findings are for people; they stop nothing.
	Findings []Finding
}

// SpacePlan is what is left to be done in one space: first the space, then each
// block with its claims.
type SpacePlan struct {
	Space  ipam.Space
	Blocks []BlockPlan
}

// BlockPlan makes a block Shared and puts claims into it.
type BlockPlan struct {
	Ref ipam.BlockRef
	// Create says that there is no such block yet.
	Create bool
	// Lessee has leased the block, and is asked to share it; zero if nobody. A
	// Leased block without an owner is shared at once.
	Lessee ipam.Node
	// Claims that don't exist yet.
	Claims []ipam.Claim
}

// Observe reads which of the wanted objects exist and, where Whereabouts goes on
// allocating, which blocks are leased. It changes nothing.
func Observe(ctx context.Context, store ipam.Store, w Wanted) (Existing, error) {
	have := Existing{Blocks: map[ipam.BlockRef]ipam.Block{}, Claims: map[ipam.ClaimRef]ipam.Claim{}}
	for _, as := range w.Spaces {
		var ranges []iprange.Range
		for _, c := range w.Claims {
			if c.Ref.Space == as.Name {
				ranges = append(ranges, iprange.Single(c.Ref.Addr))
			}
		}
		set := iprange.SetOf(ranges...)
		for prefix := range as.Grid.Blocks(set).From(iprange.Uint128{}) {
			ref := ipam.BlockRef{Space: as.Name, Prefix: prefix}
			block, err := store.GetBlock(ctx, ref)
			if errors.Is(err, ipam.ErrNotFound) {
				continue
			}
			if err != nil {
				return Existing{}, fmt.Errorf("read block %s: %w", ref, err)
			}
			have.Blocks[ref] = block
		}
		claims, err := store.SpaceClaims(ctx, as.Name, set)
		if err != nil {
			return Existing{}, fmt.Errorf("read the claims of space %s: %w", as.Name, err)
		}
		for _, c := range claims {
			have.Claims[c.Ref] = c
		}
		if err := have.observeLeased(ctx, store, as); err != nil {
			return Existing{}, err
		}
	}
	return have, nil
}

// observeLeased adds the leased blocks of a space beside Whereabouts.
func (e Existing) observeLeased(ctx context.Context, store ipam.Store, as ipam.Space) error {
	if !as.Whereabouts {
		return nil
	}
	blocks, err := store.SpaceBlocks(ctx, as.Name, everything())
	if err != nil {
		return fmt.Errorf("read the blocks of space %s: %w", as.Name, err)
	}
	for _, b := range blocks {
		if b.Mode == ipam.Leased {
			e.Blocks[b.Ref] = b
		}
	}
	return nil
}

// Plan compares. It does no I/O.
func (w Wanted) Plan(have Existing) Plan {
	p := Plan{Findings: slices.Clone(w.Findings)}
	for _, as := range w.Spaces {
		sp := SpacePlan{Space: as}
		for _, c := range w.Claims {
			if c.Ref.Space == as.Name {
				p.add(&sp, c, have)
			}
		}
		if as.Whereabouts {
			p.shareLeased(&sp, have)
		}
		p.Spaces = append(p.Spaces, sp)
	}
	return p
}

// add enters one wanted claim; those of a space come in order of addresses.
func (p *Plan) add(sp *SpacePlan, c ipam.Claim, have Existing) {
	ref := ipam.BlockRef{Space: sp.Space.Name, Prefix: sp.Space.Grid.Block(c.Ref.Addr)}
	if found, ok := have.Claims[c.Ref]; ok {
		if found.Owner.Key != c.Owner.Key {
			p.Findings = append(p.Findings, taken(c, found))
		}
		return
	}
	block, exists := have.Blocks[ref]
	if n := len(sp.Blocks); n == 0 || sp.Blocks[n-1].Ref != ref {
		next := BlockPlan{Ref: ref, Create: !exists}
		if exists && block.Mode == ipam.Leased && block.Owner.Name != "" {
			next.Lessee = block.Owner
			p.Findings = append(p.Findings, Finding{FindingBlocked, fmt.Sprintf(
				"block %s is leased by node %s, which may have given away addresses of Whereabouts in it; it is asked to share it", ref, block.Owner.Name)})
		}
		sp.Blocks = append(sp.Blocks, next)
	}
	last := &sp.Blocks[len(sp.Blocks)-1]
	last.Claims = append(last.Claims, c)
}

// shareLeased enters the other leased blocks of a space beside Whereabouts: it
// knows nothing of them and gives their addresses away too.
func (p *Plan) shareLeased(sp *SpacePlan, have Existing) {
	var leased []ipam.Block
	for ref, b := range have.Blocks {
		planned := slices.ContainsFunc(sp.Blocks, func(bp BlockPlan) bool { return bp.Ref == ref })
		if ref.Space == sp.Space.Name && b.Mode == ipam.Leased && !planned {
			leased = append(leased, b)
		}
	}
	slices.SortFunc(leased, func(a, b ipam.Block) int { return a.Ref.Prefix.Addr().Compare(b.Ref.Prefix.Addr()) })
	for _, b := range leased {
		sp.Blocks = append(sp.Blocks, BlockPlan{Ref: b.Ref, Lessee: b.Owner})
		p.Findings = append(p.Findings, Finding{FindingBlocked, fmt.Sprintf(
			"block %s is leased by node %s, and Whereabouts may give its addresses away too; it is to be shared", b.Ref, orNone(b.Owner.Name))})
	}
}

func taken(want, found ipam.Claim) Finding {
	text := fmt.Sprintf("claim %s exists and is %s of %s (container %s); Whereabouts has it for %s (container %s)",
		want.Ref, found.State, found.Owner.Pod(), found.Owner.ContainerID, want.Owner.Pod(), want.Owner.ContainerID)
	if want.State == ipam.Bound && found.State == ipam.Bound && want.Owner.Pod() != found.Owner.Pod() {
		return Finding{FindingDuplicate, text + "; if both run, restart one of them"}
	}
	return Finding{FindingBlocked, text + "; it stays as it is"}
}

// Claims is the number of claims to be made.
func (p Plan) Claims() int {
	n := 0
	for _, sp := range p.Spaces {
		for _, b := range sp.Blocks {
			n += len(b.Claims)
		}
	}
	return n
}

// String is the plan for people: one line for each step, then the findings.
func (p Plan) String() string {
	var b strings.Builder
	for _, sp := range p.Spaces {
		as := sp.Space
		fmt.Fprintf(&b, "space %s: ensure (mode %s, blocks /%d and /%d%s)\n", as.Name, as.Mode, as.Grid.V4, as.Grid.V6, besideText(as))
		for _, block := range sp.Blocks {
			switch {
			case block.Create:
				fmt.Fprintf(&b, "block %s: create Shared\n", block.Ref)
			case block.Lessee != ipam.Node{}:
				fmt.Fprintf(&b, "block %s: ask node %s to share it, and wait\n", block.Ref, block.Lessee.Name)
			}
			for _, c := range block.Claims {
				fmt.Fprintf(&b, "claim %s: create %s\n", c.Ref, claimText(c))
			}
		}
	}
	for _, f := range p.Findings {
		fmt.Fprintf(&b, "note: %s: %s\n", f.Kind, f.Text)
	}
	return b.String()
}

func besideText(as ipam.Space) string {
	if as.Whereabouts {
		return ", beside Whereabouts"
	}
	return ""
}

func claimText(c ipam.Claim) string {
	text := fmt.Sprintf("%s, pod %s, %s of %s, container %s", c.State, c.Owner.Pod(), c.Owner.IfName, c.Owner.Network, c.Owner.ContainerID)
	if c.Node.Name != "" {
		text += ", node " + c.Node.Name
	}
	if c.Suspect {
		text += ", to be asked for on the wire first"
	}
	return text + ", from " + c.Pool
}
