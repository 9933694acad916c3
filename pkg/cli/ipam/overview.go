package ipam

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"time"

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

// poolCount is a pool with what is taken of it.
type poolCount struct {
	pool
	claims counts
	// leased addresses are in use in Leased blocks, as told last.
	leased uint64
}

// free addresses, as far as is known.
func (p *poolCount) free() iprange.Uint128 {
	return p.usable.Count().Sub(iprange.From64(p.leased + p.claims.sum()))
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
		s.pools = append(s.pools, &poolCount{pool: p})
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
			if p.Space.Name == b.Ref.Space && p.usable.Contains(addr) {
				p.leased++
			}
		}
	}
}

func (s *seen) addClaim(c ipam.Claim) {
	for _, p := range s.pools {
		if p.Space.Name == c.Ref.Space && p.usable.Contains(c.Ref.Addr) {
			p.claims.add(c.State)
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

// used are the addresses that a Leased block's node told to be in use.
func used(b block) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
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

// overview is what `show` prints; its JSON form is kept stable.
type overview struct {
	Pools  []poolView  `json:"pools"`
	Spaces []spaceView `json:"spaces"`
	Blocks []blockView `json:"blocks"`
	// Node has the claims of the node that was asked for.
	Node       *nodeView `json:"node,omitempty"`
	Unreadable []string  `json:"unreadable,omitempty"`
}

type poolView struct {
	Name   string   `json:"name"`
	Space  string   `json:"space"`
	Ranges []string `json:"ranges"`
	// Usable and Free are decimal text: IPv6 is larger than JSON's numbers.
	Usable     string `json:"usable"`
	Used       uint64 `json:"used"`
	Cooling    uint64 `json:"cooling"`
	Kept       uint64 `json:"kept"`
	Free       string `json:"free"`
	Definition string `json:"definition,omitempty"`
	Error      string `json:"error,omitempty"`

	usable, free iprange.Uint128
}

type spaceView struct {
	Name        string `json:"name"`
	Made        bool   `json:"made"`
	Mode        string `json:"mode"`
	GridV4      int    `json:"gridV4"`
	GridV6      int    `json:"gridV6"`
	Cooldown    string `json:"cooldown"`
	Whereabouts bool   `json:"whereabouts,omitempty"`
	Leased      int    `json:"leased"`
	Shared      int    `json:"shared"`
	Bound       uint64 `json:"bound"`
	Cooling     uint64 `json:"cooling"`
	Kept        uint64 `json:"kept"`
}

type blockView struct {
	Name    string    `json:"name"`
	Space   string    `json:"space"`
	Prefix  string    `json:"prefix"`
	Mode    string    `json:"mode"`
	Node    string    `json:"node,omitempty"`
	Boot    string    `json:"boot,omitempty"`
	Suspect bool      `json:"suspect,omitempty"`
	Used    uint64    `json:"used"`
	Cooling uint64    `json:"cooling"`
	Kept    uint64    `json:"kept"`
	Size    uint64    `json:"size"`
	Told    time.Time `json:"told,omitzero"`
}

type nodeView struct {
	Name    string `json:"name"`
	Bound   uint64 `json:"bound"`
	Cooling uint64 `json:"cooling"`
	Kept    uint64 `json:"kept"`
}

func (s *seen) overview() overview {
	o := overview{Pools: []poolView{}, Spaces: []spaceView{}, Blocks: []blockView{}}
	space, _ := s.onlySpace()
	for _, p := range s.pools {
		if (s.filter.pool == "" || s.filter.pool == p.Name) && (space == "" || space == p.Space.Name) {
			o.Pools = append(o.Pools, p.view())
		}
	}
	for _, name := range s.spaceNames() {
		if space == "" || space == name {
			o.Spaces = append(o.Spaces, s.spaceView(name))
		}
	}
	for _, b := range s.blocks {
		if s.wants(b) {
			o.Blocks = append(o.Blocks, s.blockView(b))
		}
	}
	slices.SortFunc(o.Blocks, func(a, b blockView) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Space, b.Space), comparePrefix(a.Prefix, b.Prefix))
	})
	if s.filter.node != "" {
		o.Node = &nodeView{s.filter.node, s.inNode.bound, s.inNode.cooling, s.inNode.kept}
	}
	for _, err := range s.odd {
		o.Unreadable = append(o.Unreadable, err.Error())
	}
	return o
}

func comparePrefix(a, b string) int {
	left, errA := netip.ParsePrefix(a)
	right, errB := netip.ParsePrefix(b)
	if errA != nil || errB != nil {
		return cmp.Compare(a, b)
	}
	return left.Addr().Compare(right.Addr())
}

// wants says whether the filter admits a block.
func (s *seen) wants(b block) bool {
	if s.filter.node != "" && b.Owner.Name != s.filter.node {
		return false
	}
	for _, p := range s.pools {
		if p.Name == s.filter.pool {
			return p.usable.Overlaps(iprange.SetOf(iprange.OfPrefix(b.Ref.Prefix)))
		}
	}
	return true
}

func (p *poolCount) view() poolView {
	v := poolView{
		Name: p.Name, Space: p.Space.Name, Ranges: []string{}, Used: p.leased + p.claims.bound, Cooling: p.claims.cooling, Kept: p.claims.kept,
		Definition: p.Definition, usable: p.usable.Count(), free: p.free(),
	}
	if p.bad != nil {
		v.Error = p.bad.Error()
	}
	for _, r := range p.Ranges {
		v.Ranges = append(v.Ranges, rangeText(r.Spec))
	}
	v.Usable, v.Free = v.usable.String(), v.free.String()
	return v
}

// rangeText is a range with its bounds.
func rangeText(s iprange.Spec) string {
	if s.Start == "" && s.End == "" {
		return s.Range
	}
	return fmt.Sprintf("%s[%s-%s]", s.Range, s.Start, s.End)
}
