package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

const (
	// viewAge is how old the view of others' blocks may be when a block is
	// looked for.
	viewAge = 5 * time.Second
	// viewBlocks bounds a range whose blocks are listed; in a larger one a free
	// block is found by trying.
	viewBlocks = 4096
	// leaseTries bounds how many blocks are tried where they aren't listed.
	leaseTries = 256
	// blindTries is how many are tried before the view is asked.
	blindTries = 2
	// blocksPerNode is how many blocks a range needs for each node to be leased
	// in mode Auto.
	blocksPerNode = 4
	nodesAge      = 5 * time.Minute
	// somebody is the owner of a block that is there and wasn't read; no node
	// has such a name.
	somebody  = "?"
	aheadTime = 10 * time.Second
)

// leases says whether blocks are leased for the range.
func (a *Agent) leases(ctx context.Context, sp ipam.Space, rg ipam.Range) bool {
	switch {
	case sp.Whereabouts || sp.Mode == ipam.Claims:
		return false
	case sp.Mode == ipam.Blocks:
		return true
	}
	need := iprange.From64(uint64(blocksPerNode * a.nodes(ctx)))
	return sp.Grid.Blocks(rg.Usable).Count().Cmp(need) >= 0
}

// nodes is about how many nodes allocate.
func (a *Agent) nodes(ctx context.Context) int {
	a.counting.Lock()
	defer a.counting.Unlock()
	a.mu.Lock()
	count, fresh := a.nodeCount, a.nodeCount > 0 && a.now()-a.nodesAt < nodesAge
	a.mu.Unlock()
	if fresh {
		return count
	}
	n, err := a.opts.Store.Nodes(ctx)
	if err != nil {
		return max(count, 1)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nodeCount, a.nodesAt = max(n, 1), a.now()
	return a.nodeCount
}

// fromNewBlock leases a block and takes an address of it.
func (a *Agent) fromNewBlock(ctx context.Context, t *task, sp ipam.Space, rg ipam.Range) (place, bool, error) {
	for {
		taken, err := a.lease(ctx, sp, rg, func() bool { return a.free(sp, rg, 1) >= 1 })
		if err != nil {
			return place{}, false, err
		}
		if p, ok := a.fromBlocks(t, sp, rg); ok {
			return p, true, nil
		}
		if !taken {
			return place{}, false, nil
		}
	}
}

// free counts the addresses of the range that could be assigned now, up to
// enough.
func (a *Agent) free(sp ipam.Space, rg ipam.Range, enough int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, now := -len(a.reserved), ticks(a.now())
	for _, b := range a.state.free(sp.Name) {
		if b.stage != stageReady {
			continue
		}
		if n += b.block.Count(rg.Usable, now).Free; n >= enough {
			break
		}
	}
	return n
}

// leaseAhead has the next block leased in the background where few addresses
// are left. The store isn't asked here, not even for the number of nodes: the
// answer to this ADD needs nothing of it.
func (a *Agent) leaseAhead(sp ipam.Space, rg ipam.Range) {
	if a.free(sp, rg, lowWater) >= lowWater {
		return
	}
	a.mu.Lock()
	a.ahead[sp.Name] = aheadNeed{sp, rg}
	a.mu.Unlock()
	select {
	case a.aheadKick <- struct{}{}:
	default:
	}
}

type aheadNeed struct {
	space ipam.Space
	rg    ipam.Range
}

// Ahead leases the blocks that Allocate will need soon.
func (a *Agent) Ahead(ctx context.Context) error {
	a.mu.Lock()
	needs := a.ahead
	a.ahead = map[string]aheadNeed{}
	a.mu.Unlock()
	var errs []error
	for _, n := range needs {
		errs = append(errs, a.leaseFor(ctx, n))
	}
	return errors.Join(errs...)
}

func (a *Agent) leaseFor(ctx context.Context, n aheadNeed) error {
	ctx, cancel := context.WithTimeout(ctx, aheadTime)
	defer cancel()
	if !a.leases(ctx, n.space, n.rg) {
		return nil
	}
	_, err := a.lease(ctx, n.space, n.rg, func() bool { return a.free(n.space, n.rg, lowWater) >= lowWater })
	return err
}

// lease takes one block that meets the range, unless enough says that there is
// no need any more. False means that there is none to take.
func (a *Agent) lease(ctx context.Context, sp ipam.Space, rg ipam.Range, enough func() bool) (bool, error) {
	hints := a.hints(sp.Name)
	release, err := take(ctx, hints.leasing, "a block is being leased for another pod")
	if err != nil {
		return false, err
	}
	defer release()
	if enough() || sp.MaxBlocks > 0 && a.blockCount(sp.Name) >= sp.MaxBlocks {
		return false, nil
	}
	blocks := sp.Grid.Blocks(rg.Usable)
	listed := blocks.Count().Cmp(iprange.From64(viewBlocks)) <= 0
	for round := range 2 {
		if round == 1 && (!listed || a.viewAged(hints) < viewAge) {
			break
		}
		if round == 1 {
			if err := a.look(ctx, sp, rg); err != nil {
				return false, err
			}
		}
		ok, err := a.leaseAbsent(ctx, sp, rg, blocks, listed)
		if ok || err != nil {
			return ok, err
		}
	}
	return a.leaseOwnerless(ctx, sp, rg)
}

// leaseAbsent tries to create one block after the other, beginning at a place
// of this node's own.
func (a *Agent) leaseAbsent(ctx context.Context, sp ipam.Space, rg ipam.Range, blocks iprange.Blocks, listed bool) (bool, error) {
	start, tries := a.cursor(sp, blocks), 0
	for prefix := range blocks.From(start) {
		start = start.Add(iprange.From64(1))
		if a.known(sp.Name, prefix) {
			continue
		}
		made, err := a.createBlock(ctx, sp, prefix)
		if err != nil || made {
			a.setCursor(sp, start)
			return made, err
		}
		switch tries++; {
		case tries == blindTries && listed:
			if err := a.look(ctx, sp, rg); err != nil {
				return false, err
			}
		case tries >= leaseTries:
			a.forgetGuesses(sp.Name)
			return false, nil
		}
	}
	return false, nil
}

// forgetGuesses lets blocks that were found taken be tried again one day.
func (a *Agent) forgetGuesses(space string) {
	hints := a.hints(space)
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(hints.view, func(_ netip.Prefix, s sight) bool { return s.owner.Name == somebody })
}

// createBlock leases the block if it is absent.
func (a *Agent) createBlock(ctx context.Context, sp ipam.Space, prefix netip.Prefix) (bool, error) {
	ref := ipam.BlockRef{Space: sp.Name, Prefix: prefix}
	made, err := a.opts.Store.CreateBlock(ctx, ipam.Block{Ref: ref, Mode: ipam.Leased, Owner: a.Node()})
	switch {
	case errors.Is(err, ipam.ErrExists):
		a.see(sp.Name, prefix, sight{mode: ipam.Leased, owner: ipam.Node{Name: somebody}})
		return false, nil
	case err != nil:
		a.wantScan() // it may be ours all the same
		return false, unavailable(fmt.Errorf("lease block %s: %w", ref, err))
	}
	return true, a.write(entry{Op: opReady, Block: &ref, Version: &made.Version})
}

// leaseOwnerless takes a block over that was taken from a dead node.
func (a *Agent) leaseOwnerless(ctx context.Context, sp ipam.Space, rg ipam.Range) (bool, error) {
	for prefix, s := range a.seen(sp.Name) {
		if s.mode != ipam.Leased || s.owner.Name != "" || !rg.Usable.Overlaps(iprange.SetOf(iprange.OfPrefix(prefix))) {
			continue
		}
		ref := ipam.BlockRef{Space: sp.Name, Prefix: prefix}
		b, err := a.opts.Store.GetBlock(ctx, ref)
		if err != nil || b.Mode != ipam.Leased || b.Owner.Name != "" {
			a.forgetSight(sp.Name, prefix)
			continue
		}
		b.Owner = a.Node()
		made, err := a.opts.Store.UpdateBlock(ctx, b)
		switch {
		case errors.Is(err, ipam.ErrStale) || errors.Is(err, ipam.ErrNotFound):
			a.forgetSight(sp.Name, prefix)
			continue
		case err != nil:
			a.wantScan()
			return false, unavailable(fmt.Errorf("take block %s over: %w", ref, err))
		}
		return true, a.write(entry{Op: opReady, Block: &ref, Version: &made.Version, Suspect: true})
	}
	return false, nil
}

// look lists the blocks of others in the range.
func (a *Agent) look(ctx context.Context, sp ipam.Space, rg ipam.Range) error {
	blocks, err := a.opts.Store.SpaceBlocks(ctx, sp.Name, rg.Usable)
	if err != nil {
		return unavailable(fmt.Errorf("list blocks of %s: %w", sp.Name, err))
	}
	hints := a.hints(sp.Name)
	a.mu.Lock()
	defer a.mu.Unlock()
	for prefix, s := range hints.view {
		if s.mode == ipam.Leased {
			delete(hints.view, prefix)
		}
	}
	for _, b := range blocks {
		hints.view[b.Ref.Prefix] = sightOf(b)
	}
	hints.viewed = a.now()
	return nil
}

func (a *Agent) viewAged(hints *space) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now() - hints.viewed
}

func (a *Agent) see(space string, prefix netip.Prefix, s sight) {
	hints := a.hints(space)
	a.mu.Lock()
	defer a.mu.Unlock()
	hints.view[prefix] = s
}

func (a *Agent) forgetSight(space string, prefix netip.Prefix) {
	hints := a.hints(space)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(hints.view, prefix)
}

// seen is a copy of what is known of others' blocks.
func (a *Agent) seen(space string) map[netip.Prefix]sight {
	hints := a.hints(space)
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[netip.Prefix]sight, len(hints.view))
	for prefix, s := range hints.view {
		out[prefix] = s
	}
	return out
}

// known says that the block is ours or was seen to be there.
func (a *Agent) known(space string, prefix netip.Prefix) bool {
	hints := a.hints(space)
	a.mu.Lock()
	defer a.mu.Unlock()
	_, seen := hints.view[prefix]
	return seen || a.state.blocks[ipam.BlockRef{Space: space, Prefix: prefix}] != nil
}

func (a *Agent) blockCount(space string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.state.bySpace[space])
}

// cursor is where this node begins to look for a block: at first a place of
// its own, so that nodes don't meet; later behind the last one that it took.
func (a *Agent) cursor(sp ipam.Space, blocks iprange.Blocks) iprange.Uint128 {
	hints := a.hints(sp.Name)
	a.mu.Lock()
	defer a.mu.Unlock()
	if hints.cursor == nil {
		h := hashOf(a.state.node.Name + "\x00" + sp.Name)
		hints.cursor = &iprange.Uint128{Hi: mix(h + 1), Lo: mix(h)}
	}
	return hints.cursor.Mod(blocks.Count())
}

func hashOf(text string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text)) // a hash takes everything
	return h.Sum64()
}

// mix spreads the few bits in which short names differ (splitmix64).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

func (a *Agent) setCursor(sp ipam.Space, at iprange.Uint128) {
	hints := a.hints(sp.Name)
	a.mu.Lock()
	defer a.mu.Unlock()
	hints.cursor = &at
}
