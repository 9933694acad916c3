package ipamtest

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// tables are the objects at one moment, with what is needed to find them. A
// look-up costs as much as the smaller of what is asked for and what there is.
type tables struct {
	spaces map[string]ipam.Space
	blocks map[string]map[size]map[netip.Prefix]ipam.Block
	claims map[string]map[netip.Addr]ipam.Claim
	nodes  map[string]*held
	kept   map[ipam.Keeper]map[ipam.ClaimRef]bool
}

// size is a length of prefixes in one family.
type size struct{ bitLen, bits int }

// held is what a node has.
type held struct {
	blocks map[ipam.BlockRef]bool
	claims map[ipam.ClaimRef]bool
}

// change is a new content of a block or a claim; nil is its end.
type change struct {
	blockRef ipam.BlockRef
	block    *ipam.Block
	claimRef ipam.ClaimRef
	claim    *ipam.Claim
}

func newTables() *tables {
	return &tables{
		spaces: map[string]ipam.Space{}, blocks: map[string]map[size]map[netip.Prefix]ipam.Block{},
		claims: map[string]map[netip.Addr]ipam.Claim{}, nodes: map[string]*held{},
		kept: map[ipam.Keeper]map[ipam.ClaimRef]bool{},
	}
}

func (t *tables) clone() *tables {
	copied := newTables()
	for _, sizes := range t.blocks {
		for _, blocks := range sizes {
			for ref, b := range blocks {
				copied.apply(change{blockRef: ipam.BlockRef{Space: b.Ref.Space, Prefix: ref}, block: &b})
			}
		}
	}
	for _, claims := range t.claims {
		for _, c := range claims {
			copied.apply(change{claimRef: c.Ref, claim: &c})
		}
	}
	return copied
}

func (t *tables) block(ref ipam.BlockRef) (ipam.Block, bool) {
	b, ok := t.blocks[ref.Space][sizeOf(ref.Prefix)][ref.Prefix]
	return b, ok
}

func (t *tables) claim(ref ipam.ClaimRef) (ipam.Claim, bool) {
	c, ok := t.claims[ref.Space][ref.Addr]
	return c, ok
}

func sizeOf(p netip.Prefix) size { return size{p.Addr().BitLen(), p.Bits()} }

// inner is the map within a map, made if need be.
func inner[K1, K2 comparable, V any](outer map[K1]map[K2]V, key K1) map[K2]V {
	m, ok := outer[key]
	if !ok {
		m = map[K2]V{}
		outer[key] = m
	}
	return m
}

func (t *tables) node(name string) *held {
	h, ok := t.nodes[name]
	if !ok {
		h = &held{map[ipam.BlockRef]bool{}, map[ipam.ClaimRef]bool{}}
		t.nodes[name] = h
	}
	return h
}

func (t *tables) apply(c change) {
	if c.claimRef.Space != "" {
		t.applyClaim(c.claimRef, c.claim)
		return
	}
	ref := c.blockRef
	blocks := inner(inner(t.blocks, ref.Space), sizeOf(ref.Prefix))
	if former, ok := blocks[ref.Prefix]; ok && former.Owner.Name != "" {
		delete(t.node(former.Owner.Name).blocks, ref)
	}
	if c.block == nil {
		delete(blocks, ref.Prefix)
		return
	}
	blocks[ref.Prefix] = *c.block
	if name := c.block.Owner.Name; name != "" {
		t.node(name).blocks[ref] = true
	}
}

func (t *tables) applyClaim(ref ipam.ClaimRef, c *ipam.Claim) {
	claims := inner(t.claims, ref.Space)
	if former, ok := claims[ref.Addr]; ok {
		delete(t.node(former.Node.Name).claims, ref)
		delete(t.kept[former.Keep], ref)
		if len(t.kept[former.Keep]) == 0 {
			delete(t.kept, former.Keep)
		}
	}
	if c == nil {
		delete(claims, ref.Addr)
		return
	}
	claims[ref.Addr] = *c
	t.node(c.Node.Name).claims[ref] = true
	if !c.Keep.IsZero() {
		inner(t.kept, c.Keep)[ref] = true
	}
}

// active is the number of nodes that hold something.
func (t *tables) active() (n int) {
	for name, h := range t.nodes {
		if name != "" && len(h.blocks)+len(h.claims) > 0 {
			n++
		}
	}
	return n
}

// within are the blocks of a space that meet the set, in order.
func (t *tables) within(space string, set iprange.Set) []ipam.Block {
	var found []ipam.Block
	for s, blocks := range t.blocks[space] {
		family := ofFamily(set, s.bitLen)
		grid := iprange.Grid{V4: s.bits, V6: s.bits}
		candidates := grid.Blocks(family)
		if candidates.Count().Cmp(iprange.From64(uint64(len(blocks)))) <= 0 {
			for prefix := range candidates.From(iprange.Uint128{}) {
				if b, ok := blocks[prefix]; ok {
					found = append(found, b)
				}
			}
			continue
		}
		for prefix, b := range blocks {
			if family.Overlaps(iprange.SetOf(iprange.OfPrefix(prefix))) {
				found = append(found, b)
			}
		}
	}
	sortBlocks(found)
	return found
}

// ofFamily is the part of a set that has addresses of so many bits.
func ofFamily(set iprange.Set, bitLen int) iprange.Set {
	ranges := slices.DeleteFunc(set.Ranges(), func(r iprange.Range) bool { return r.First().BitLen() != bitLen })
	return iprange.SetOf(ranges...)
}

// claimsWithin are the claims of a space within the set, in order.
func (t *tables) claimsWithin(space string, set iprange.Set) []ipam.Claim {
	claims := t.claims[space]
	var found []ipam.Claim
	for _, r := range set.Ranges() {
		if r.Count().Cmp(iprange.From64(uint64(len(claims)))) <= 0 {
			for addr := range r.Addrs() {
				if c, ok := claims[addr]; ok {
					found = append(found, c)
				}
			}
			continue
		}
		for addr, c := range claims {
			if r.Contains(addr) {
				found = append(found, c)
			}
		}
	}
	sortClaims(found)
	return found
}

// blocksOf are the blocks of these names, in order.
func (t *tables) blocksOf(refs map[ipam.BlockRef]bool) []ipam.Block {
	var found []ipam.Block
	for ref := range maps.Keys(refs) {
		b, _ := t.block(ref)
		found = append(found, b)
	}
	sortBlocks(found)
	return found
}

// claimsOf are the claims of these names, in order.
func (t *tables) claimsOf(refs map[ipam.ClaimRef]bool) []ipam.Claim {
	var found []ipam.Claim
	for ref := range maps.Keys(refs) {
		c, _ := t.claim(ref)
		found = append(found, c)
	}
	sortClaims(found)
	return found
}

func sortBlocks(blocks []ipam.Block) {
	slices.SortFunc(blocks, func(a, b ipam.Block) int { return compareBlocks(a.Ref, b.Ref) })
}

func compareBlocks(a, b ipam.BlockRef) int {
	return cmp.Or(cmp.Compare(a.Space, b.Space), a.Prefix.Compare(b.Prefix))
}

func sortClaims(claims []ipam.Claim) {
	slices.SortFunc(claims, func(a, b ipam.Claim) int {
		return cmp.Or(cmp.Compare(a.Ref.Space, b.Ref.Space), a.Ref.Addr.Compare(b.Ref.Addr))
	})
}
