package ipam

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// counts are claims by their state.
type counts struct{ bound, cooling, kept uint64 }

func (c *counts) add(state ipam.ClaimState) {
	switch state {
	case ipam.Bound:
		c.bound++
	case ipam.Cooling:
		c.cooling++
	case ipam.Kept:
		c.kept++
	}
}

func (c counts) sum() uint64 { return c.bound + c.cooling + c.kept }

// poolCount is a pool with what is taken of each of its families.
type poolCount struct {
	pool
	families []*familyCount
}

// familyCount is IPv4 or IPv6 of a pool: a pod gets an address of each, so the
// one that is used up first decides.
type familyCount struct {
	family int
	usable iprange.Set
	claims counts
	// leased addresses are in use in Leased blocks, as told last.
	leased uint64
}

func countOf(p pool) *poolCount {
	out := &poolCount{pool: p}
	for family, all := range map[int]string{4: "0.0.0.0/0", 6: "::/0"} {
		whole := iprange.SetOf(iprange.OfPrefix(netip.MustParsePrefix(all)))
		if usable := p.usable.Intersect(whole); !usable.IsEmpty() {
			out.families = append(out.families, &familyCount{family: family, usable: usable})
		}
	}
	slices.SortFunc(out.families, func(a, b *familyCount) int { return a.family - b.family })
	return out
}

// of is the count that an address belongs to, nil if the pool hasn't got it.
func (p *poolCount) of(addr netip.Addr) *familyCount {
	for _, f := range p.families {
		if f.usable.Contains(addr) {
			return f
		}
	}
	return nil
}

// free addresses, as far as is known.
func (f *familyCount) free() iprange.Uint128 {
	return f.usable.Count().Sub(iprange.From64(f.leased + f.claims.sum()))
}

// seen is what there is, counted.
type seen struct {
	filter filter
	pools  []*poolCount
	spaces map[string]ipam.Space
	blocks map[ipam.BlockRef]block
	// inBlock counts the claims of each block, inSpace of each space, of the
	// node that was asked for in inNode.
	inBlock map[ipam.BlockRef]*counts
	inSpace map[string]*counts
	inNode  counts
	odd     []error
}

func newSeen(f filter) *seen {
	return &seen{
		filter: f, spaces: map[string]ipam.Space{}, blocks: map[ipam.BlockRef]block{},
		inBlock: map[ipam.BlockRef]*counts{}, inSpace: map[string]*counts{},
	}
}

// survey reads and counts, blocks before claims. The claims themselves are not
// kept: each is given to the functions, which may be none.
func (s *seen) survey(ctx context.Context, from source, each ...func(ipam.Claim)) error {
	if err := s.readFew(ctx, from); err != nil {
		return err
	}
	space, err := s.onlySpace()
	if err != nil {
		return fmt.Errorf("%s: %w", from.name(), err)
	}
	odd := func(err error) { s.odd = append(s.odd, err) }
	if err := from.eachBlock(ctx, space, s.addBlock, odd); err != nil {
		return err
	}
	return from.eachClaim(ctx, space, func(c ipam.Claim) {
		s.addClaim(c)
		for _, do := range each {
			do(c)
		}
	}, odd)
}

// readFew reads the spaces and the pools.
func (s *seen) readFew(ctx context.Context, from source) error {
	spaces, err := from.spaces(ctx)
	if err != nil {
		return err
	}
	for _, as := range spaces {
		s.spaces[as.Name] = as
	}
	pools, err := from.pools(ctx)
	for _, p := range pools {
		s.pools = append(s.pools, countOf(p))
	}
	slices.SortFunc(s.pools, func(a, b *poolCount) int { return cmp.Compare(a.Name, b.Name) })
	return err
}

// onlySpace is the space that the filter comes to, empty for all. A name that
// nothing has is an error: the operator mistyped it.
func (s *seen) onlySpace() (string, error) {
	f := s.filter
	if f.pool != "" {
		i := slices.IndexFunc(s.pools, func(p *poolCount) bool { return p.Name == f.pool })
		if i < 0 {
			return "", fmt.Errorf("there is no pool %q; there are: %v", f.pool, s.poolNames())
		}
		if f.space != "" && f.space != s.pools[i].Space.Name {
			return "", fmt.Errorf("pool %s is in space %s, not in %s", f.pool, s.pools[i].Space.Name, f.space)
		}
		return s.pools[i].Space.Name, nil
	}
	if f.space != "" && !slices.Contains(s.spaceNames(), f.space) {
		return "", fmt.Errorf("there is no address space %q; there are: %v", f.space, s.spaceNames())
	}
	return f.space, nil
}

func (s *seen) poolNames() []string {
	var names []string
	for _, p := range s.pools {
		names = append(names, p.Name)
	}
	return names
}

// spaceNames are the spaces, and those that a pool will make.
func (s *seen) spaceNames() []string {
	names := map[string]bool{}
	for name := range s.spaces {
		names[name] = true
	}
	for _, p := range s.pools {
		names[p.Space.Name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// grid is that of a space, or what it will get from its first pool.
func (s *seen) grid(space string) iprange.Grid {
	if as, ok := s.spaces[space]; ok {
		return as.Grid
	}
	for _, p := range s.pools {
		if p.Space.Name == space {
			return p.Space.Grid
		}
	}
	return iprange.DefaultGrid()
}

func (s *seen) addBlock(b block) {
	s.blocks[b.Ref] = b
	if b.Mode != ipam.Leased {
		return
	}
	for addr := range used(b) {
		for _, p := range s.pools {
			if p.Space.Name != b.Ref.Space {
				continue
			}
			if f := p.of(addr); f != nil {
				f.leased++
			}
		}
	}
}

func (s *seen) addClaim(c ipam.Claim) {
	for _, p := range s.pools {
		if p.Space.Name != c.Ref.Space {
			continue
		}
		if f := p.of(c.Ref.Addr); f != nil {
			f.claims.add(c.State)
		}
	}
	at(s.inSpace, c.Ref.Space).add(c.State)
	at(s.inBlock, ipam.BlockRef{Space: c.Ref.Space, Prefix: s.grid(c.Ref.Space).Block(c.Ref.Addr)}).add(c.State)
	if c.Node.Name == s.filter.node {
		s.inNode.add(c.State)
	}
}

func at[K comparable](all map[K]*counts, key K) *counts {
	if all[key] == nil {
		all[key] = &counts{}
	}
	return all[key]
}

// used are the addresses that a Leased block's node told to be in use; none if
// the block was taken from it.
func used(b block) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		if b.Owner.Name == "" {
			return
		}
		all := iprange.OfPrefix(b.Ref.Prefix)
		for i, octet := range b.usage.Bitmap {
			for octet != 0 {
				bit := bits.TrailingZeros8(octet)
				octet &= octet - 1
				addr, ok := all.Nth(iprange.From64(uint64(i*8 + bit)))
				if ok && !yield(addr) {
					return
				}
			}
		}
	}
}

// usedCount is how many those are.
func usedCount(b block) uint64 {
	var n uint64
	for range used(b) {
		n++
	}
	return n
}
