package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

const (
	// listedAddrs bounds a range whose free addresses are listed from a hint.
	listedAddrs = 4096
	// certainAddrs bounds a range that is searched to its last address; nobody
	// fills a larger one with claims (1.1 KB each in etcd).
	certainAddrs = 1 << 22
	// lowestOf is among how many of the lowest a claim chooses after it lost a
	// race for the very lowest.
	lowestOf = 8
	// blindBlocks and blindInBlock bound the tries without a list.
	blindBlocks  = 64
	blindInBlock = 8
)

// candidates are addresses to be tried.
type candidates interface {
	next() (netip.Addr, bool)
	refused(addr netip.Addr)
}

// listing are the free addresses of a range, as far as is known.
type listing struct {
	free   []netip.Addr
	order  ipam.Order
	losses int
}

func (l *listing) next() (netip.Addr, bool) {
	if len(l.free) == 0 {
		return netip.Addr{}, false
	}
	i := 0
	switch {
	case l.order != ipam.Lowest:
		i = rand.IntN(len(l.free))
	case l.losses > 0:
		i = rand.IntN(min(lowestOf, len(l.free)))
	}
	addr := l.free[i]
	l.free = slices.Delete(l.free, i, i+1)
	return addr, true
}

func (l *listing) refused(netip.Addr) { l.losses++ }

// hinted lists what nobody seems to have.
func (a *Agent) hinted(ctx context.Context, t *task, sp ipam.Space, rg ipam.Range) (candidates, error) {
	taken, err := a.opts.Store.Taken(ctx, sp.Name, rg.Usable)
	if err != nil {
		return nil, unavailable(fmt.Errorf("claims of %s: %w", sp.Name, err))
	}
	return a.list(t, sp, rg, taken), nil
}

// certain lists what nobody had a moment ago. What was tried before may have
// been freed since.
func (a *Agent) certain(ctx context.Context, t *task, sp ipam.Space, rg ipam.Range) (candidates, error) {
	if rg.Usable.Count().Cmp(iprange.From64(certainAddrs)) > 0 {
		return &listing{}, nil
	}
	claims, err := a.opts.Store.SpaceClaims(ctx, sp.Name, rg.Usable)
	if err != nil {
		return nil, unavailable(fmt.Errorf("claims of %s: %w", sp.Name, err))
	}
	taken := make(map[netip.Addr]bool, len(claims))
	for _, c := range claims {
		taken[c.Ref.Addr] = true
	}
	return a.list(t, sp, rg, taken), nil
}

// list leaves out what is taken, what t has tried, and blocks that are leased.
func (a *Agent) list(t *task, sp ipam.Space, rg ipam.Range, taken map[netip.Addr]bool) *listing {
	hints := a.hints(sp.Name)
	a.mu.Lock()
	defer a.mu.Unlock()
	l := &listing{order: t.req.Order}
	var block netip.Prefix
	open := false
	for addr := range rg.Usable.Addrs() {
		if !block.Contains(addr) {
			block = sp.Grid.Block(addr)
			s, seen := hints.view[block]
			open = a.state.blocks[ipam.BlockRef{Space: sp.Name, Prefix: block}] == nil &&
				(!seen || s.mode == ipam.Shared || s.owner.Name == somebody)
		}
		ref := ipam.ClaimRef{Space: sp.Name, Addr: addr}
		if open && !taken[addr] && !t.tried[ref] {
			l.free = append(l.free, addr)
		}
	}
	return l
}

// guesses goes through the blocks of a large range from this node's place on,
// and tries some addresses of each.
type guesses struct {
	blocks  func() (netip.Prefix, bool)
	within  iprange.Set
	current []netip.Addr
	moved   func()
	tries   int
	skip    func(netip.Addr) bool
}

func (g *guesses) next() (netip.Addr, bool) {
	for len(g.current) == 0 {
		block, ok := g.blocks()
		if !ok || g.tries >= blindBlocks {
			return netip.Addr{}, false
		}
		g.tries++
		for addr := range g.within.Intersect(iprange.SetOf(iprange.OfPrefix(block))).Addrs() {
			if !g.skip(addr) {
				g.current = append(g.current, addr)
			}
		}
		rand.Shuffle(len(g.current), func(i, j int) { g.current[i], g.current[j] = g.current[j], g.current[i] })
		if len(g.current) > blindInBlock {
			g.current = g.current[:blindInBlock]
		}
		if len(g.current) == 0 {
			g.moved()
		}
	}
	addr := g.current[0]
	g.current = g.current[1:]
	return addr, true
}

// refused moves on for good when the last address of a block was in vain.
func (g *guesses) refused(netip.Addr) {
	if len(g.current) == 0 {
		g.moved()
	}
}

// blind chooses addresses of a range that is too large to be listed.
func (a *Agent) blind(_ context.Context, t *task, sp ipam.Space, rg ipam.Range) (candidates, error) {
	blocks := sp.Grid.Blocks(rg.Usable)
	hints := a.hints(sp.Name)
	a.mu.Lock()
	if hints.claimed == nil {
		a.mu.Unlock()
		at := a.cursor(sp, blocks)
		a.mu.Lock()
		hints.claimed = &at
	}
	start := hints.claimed.Mod(blocks.Count())
	a.mu.Unlock()
	i := iprange.Uint128{}
	g := &guesses{within: rg.Usable}
	g.blocks = func() (netip.Prefix, bool) {
		if i.Cmp(blocks.Count()) >= 0 {
			return netip.Prefix{}, false
		}
		block, ok := blocks.Nth(start.Add(i).Mod(blocks.Count()))
		i = i.Add(iprange.From64(1))
		return block, ok
	}
	g.moved = func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		next := start.Add(i)
		hints.claimed = &next
	}
	g.skip = func(addr netip.Addr) bool { return t.tried[ipam.ClaimRef{Space: sp.Name, Addr: addr}] }
	return g, nil
}
