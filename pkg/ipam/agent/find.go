package agent

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/block"
)

// find is an address for one want, reserved or claimed for t.
func (a *Agent) find(ctx context.Context, t *task, w ipam.Want) (place, ipam.Range, error) {
	if !t.req.Keep.IsZero() {
		p, rg, found, err := a.findKept(ctx, t, w)
		if found || err != nil {
			return p, rg, err
		}
	}
	if w.Addr.IsValid() {
		return a.findExact(ctx, t, w)
	}
	for _, rg := range w.Ranges {
		p, found, err := a.fromRange(ctx, t, rg)
		if found || err != nil {
			return p, rg, err
		}
	}
	for _, last := range []func(context.Context, *task, ipam.Range) (place, bool, error){a.fromOthers, a.fromCooling} {
		for _, rg := range w.Ranges {
			p, found, err := last(ctx, t, rg)
			if found || err != nil {
				return p, rg, err
			}
		}
	}
	return place{}, ipam.Range{}, a.exhausted(ctx, t, w)
}

// fromRange is an address of one range that is free for the taking.
func (a *Agent) fromRange(ctx context.Context, t *task, rg ipam.Range) (place, bool, error) {
	sp, err := a.space(ctx, rg.Space)
	if err != nil {
		return place{}, false, err
	}
	if t.req.Keep.IsZero() {
		if p, ok := a.fromBlocks(t, sp, rg); ok {
			a.leaseAhead(sp, rg)
			return p, true, nil
		}
		if a.leases(ctx, sp, rg) {
			p, ok, err := a.fromNewBlock(ctx, t, sp, rg)
			if ok || err != nil {
				return p, ok, err
			}
		}
	}
	return a.fromClaims(ctx, t, sp, rg)
}

// space is the space as it is fixed in the store: asked once, then in the log.
func (a *Agent) space(ctx context.Context, as ipam.Space) (ipam.Space, error) {
	a.mu.Lock()
	known, ok := a.state.spaces[as.Name]
	refused := a.refused[as.Name]
	a.mu.Unlock()
	if ok {
		return known, refused
	}
	release, err := take(ctx, a.hints(as.Name).opening, "the address space is being read for another pod")
	if err != nil {
		return ipam.Space{}, err
	}
	defer release()
	a.mu.Lock()
	known, ok = a.state.spaces[as.Name]
	a.mu.Unlock()
	if ok {
		return known, nil
	}
	made, err := a.opts.Store.Space(ctx, as)
	if err != nil {
		return ipam.Space{}, unavailable(fmt.Errorf("address space %s: %w", as.Name, err))
	}
	if err := checkGrid(made); err != nil {
		return ipam.Space{}, err
	}
	return made, a.write(entry{Op: opSpace, Space: &made})
}

// checkGrid refuses blocks that are too large for their bitmap.
func checkGrid(sp ipam.Space) error {
	if err := sp.Grid.Check(); err != nil {
		return fmt.Errorf("%w: address space %s: %w", ipam.ErrInvalid, sp.Name, err)
	}
	if sp.Grid.V4 < 32-block.MaxHostBits || sp.Grid.V6 < 128-block.MaxHostBits {
		return fmt.Errorf("%w: address space %s: a block has at most %d addresses: give /%d or longer for IPv4 and /%d or longer for IPv6",
			ipam.ErrInvalid, sp.Name, 1<<block.MaxHostBits, 32-block.MaxHostBits, 128-block.MaxHostBits)
	}
	return nil
}

// unavailable marks an error of the store as one that may pass.
func unavailable(err error) error { return fmt.Errorf("%w: %w", ipam.ErrNotReady, err) }

// fromBlocks is an address of the blocks that the node holds.
func (a *Agent) fromBlocks(t *task, sp ipam.Space, rg ipam.Range) (place, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := ticks(a.now())
	skip := func(addr netip.Addr) bool {
		ref := ipam.ClaimRef{Space: sp.Name, Addr: addr}
		_, taken := a.reserved[ref]
		return taken || t.tried[ref] || a.avoided(ref)
	}
	var best netip.Addr
	var from *held
	since := ^ticks(0)
	for _, b := range a.state.free(sp.Name) {
		if b.stage != stageReady {
			continue
		}
		if t.req.Order == ipam.Lowest {
			if addr, ok := b.block.LowestBut(rg.Usable, now, skip); ok && (!best.IsValid() || addr.Less(best)) {
				best, from = addr, b
			}
			continue
		}
		addr, free, ok := b.block.Next(rg.Usable, now, skip)
		if free = max(free, b.since); ok && (!best.IsValid() || free < since) {
			best, from, since = addr, b, free
		}
	}
	if from == nil {
		return place{}, false
	}
	return a.reserve(t, from, best), true
}

// avoided says that somebody answered for the address not long ago; under the
// agent's lock.
func (a *Agent) avoided(ref ipam.ClaimRef) bool {
	b := a.state.blockOf(ref.Space, ref.Addr)
	return b != nil && b.avoid[ref.Addr] > a.now()
}

// reserve keeps an address of an own block for t until it is granted; under
// the agent's lock.
func (a *Agent) reserve(t *task, b *held, addr netip.Addr) place {
	p := place{Space: b.ref.Space, Addr: addr, InBlock: true, suspect: b.suspect && !b.asked[addr]}
	a.reserved[p.ref()] = t.key
	return p
}

func (a *Agent) unreserve(t *task) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for ref, key := range a.reserved {
		if key == t.key {
			delete(a.reserved, ref)
		}
	}
}
