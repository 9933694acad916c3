package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

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
	// refused is told of an address that another has, and may wait.
	refused(ctx context.Context) error
}

// listing are the free addresses of a range, as far as is known.
type listing struct {
	free   []netip.Addr
	order  ipam.Order
	losses int
	// slot of slots is the part of the range in which this node looks first, so
	// that nodes don't meet where little is free.
	slot, slots uint64
	// again lists what is free by now.
	again func(ctx context.Context) ([]netip.Addr, error)
}

func (l *listing) next() (netip.Addr, bool) {
	if len(l.free) == 0 {
		return netip.Addr{}, false
	}
	i := 0
	switch {
	case l.order == ipam.Lowest && l.losses > 0:
		i = rand.IntN(min(lowestOf, len(l.free)))
	case l.order == ipam.Lowest:
	case l.losses == 0:
		i = l.near()
	default:
		i = rand.IntN(len(l.free))
	}
	addr := l.free[i]
	l.free = slices.Delete(l.free, i, i+1)
	return addr, true
}

// near is a free address of this node's slot, or of the next that has one.
func (l *listing) near() int {
	best, distance := []int{0}, l.slots
	for i, addr := range l.free {
		bytes := addr.As16()
		at := mix(uint64(bytes[15])|uint64(bytes[14])<<8|uint64(bytes[13])<<16) % l.slots
		switch d := (at + l.slots - l.slot) % l.slots; {
		case d < distance:
			best, distance = []int{i}, d
		case d == distance:
			best = append(best, i)
		}
	}
	return best[rand.IntN(len(best))]
}

const (
	// lossPause is how long a claim waits, times its losses, for the news of
	// who was faster.
	lossPause = 10 * time.Millisecond
	lossMost  = 8
)

// refused waits a moment and looks what is free by then.
func (l *listing) refused(ctx context.Context) error {
	l.losses++
	if l.again == nil {
		return nil
	}
	if err := pause(ctx, rand.N(time.Duration(min(l.losses, lossMost))*lossPause)); err != nil {
		return unavailable(err)
	}
	free, err := l.again(ctx)
	l.free = free
	return err
}

// hinted lists what nobody seems to have.
func (a *Agent) hinted(ctx context.Context, t *task, sp ipam.Space, rg ipam.Range) (candidates, error) {
	nodes := uint64(a.nodes(ctx))
	l := &listing{order: t.req.Order, slots: nodes, slot: hashOf(a.Node().Name) % nodes}
	l.again = func(ctx context.Context) ([]netip.Addr, error) {
		taken, err := a.opts.Store.Taken(ctx, sp.Name, rg.Usable)
		if err != nil {
			return nil, unavailable(fmt.Errorf("claims of %s: %w", sp.Name, err))
		}
		return a.list(t, sp, rg, taken), nil
	}
	var err error
	l.free, err = l.again(ctx)
	return l, err
}

// certain lists what nobody had a moment ago. What was tried before may have
// been freed since.
func (a *Agent) certain(ctx context.Context, t *task, sp ipam.Space, rg ipam.Range) (candidates, error) {
	if rg.Usable.Count().Cmp(iprange.From64(certainAddrs)) > 0 {
		return &listing{}, nil
	}
	claims, err := a.claims(ctx, t, sp.Name, rg.Usable)
	if err != nil {
		return nil, err
	}
	taken := make(map[netip.Addr]bool, len(claims))
	for _, c := range claims {
		taken[c.Ref.Addr] = true
	}
	return &listing{order: ipam.Random, losses: 1, free: a.list(t, sp, rg, taken)}, nil
}

const (
	// singly bounds a range whose claims are read one by one: a list of them has
	// the API server read all claims of all spaces.
	singly         = 64
	claimsInFlight = 8
)

// claims are those of a range as they are now; within one request they are
// read once.
func (a *Agent) claims(ctx context.Context, t *task, space string, within iprange.Set) ([]ipam.Claim, error) {
	key := space + " " + within.String()
	if known, ok := t.claims[key]; ok {
		return known, nil
	}
	claims, err := a.readClaims(ctx, space, within)
	if err != nil {
		return nil, unavailable(fmt.Errorf("claims of %s: %w", space, err))
	}
	if t.claims == nil {
		t.claims = map[string][]ipam.Claim{}
	}
	t.claims[key] = claims
	return claims, nil
}

func (a *Agent) readClaims(ctx context.Context, space string, within iprange.Set) ([]ipam.Claim, error) {
	if within.Count().Cmp(iprange.From64(singly)) > 0 {
		return a.opts.Store.SpaceClaims(ctx, space, within)
	}
	var mu sync.Mutex
	var claims []ipam.Claim
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(claimsInFlight)
	for addr := range within.Addrs() {
		group.Go(func() error {
			c, err := a.opts.Store.GetClaim(ctx, ipam.ClaimRef{Space: space, Addr: addr})
			if errors.Is(err, ipam.ErrNotFound) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			claims = append(claims, c)
			return err
		})
	}
	return claims, group.Wait()
}

// list leaves out what is taken, what t has tried, and blocks that are leased.
func (a *Agent) list(t *task, sp ipam.Space, rg ipam.Range, taken map[netip.Addr]bool) []netip.Addr {
	hints := a.hints(sp.Name)
	a.mu.Lock()
	defer a.mu.Unlock()
	var free []netip.Addr
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
			free = append(free, addr)
		}
	}
	return free
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
func (g *guesses) refused(context.Context) error {
	if len(g.current) == 0 {
		g.moved()
	}
	return nil
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
