package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// shareJitter spreads the nodes that find a block absent and want it shared.
const shareJitter = 40 * time.Millisecond

// errRefused says that this address can't be had this time: the next one.
var errRefused = errors.New("refused")

// errMeanwhile is errRefused for a claim that changed since it was read.
var errMeanwhile = fmt.Errorf("%w: changed meanwhile", errRefused)

// fromClaims claims an address in a block that is Shared or that nobody has.
func (a *Agent) fromClaims(ctx context.Context, t *task, sp ipam.Space, rg ipam.Range) (place, bool, error) {
	release, err := take(ctx, a.hints(sp.Name).claiming, "addresses are being claimed for other pods")
	if err != nil {
		return place{}, false, err
	}
	defer release()
	listed := sp.Grid.Blocks(rg.Usable).Count().Uint64() <= viewBlocks
	if listed && a.viewAged(a.hints(sp.Name)) > viewAge {
		if err := a.look(ctx, sp, rg); err != nil {
			return place{}, false, err
		}
	}
	sources := []func(context.Context, *task, ipam.Space, ipam.Range) (candidates, error){a.hinted, a.certain}
	if !listed || rg.Usable.Count().Uint64() > listedAddrs {
		sources[0] = a.blind
	}
	for _, source := range sources {
		c, err := source(ctx, t, sp, rg)
		if err != nil {
			return place{}, false, err
		}
		for addr, ok := c.next(); ok; addr, ok = c.next() {
			p, err := a.claim(ctx, t, sp, addr, rg)
			if !errors.Is(err, errRefused) {
				return p, err == nil, err
			}
			if err := c.refused(ctx); err != nil {
				return place{}, false, err
			}
		}
	}
	return place{}, false, nil
}

// claim creates the claim of one address; errRefused if it can't be had.
func (a *Agent) claim(ctx context.Context, t *task, sp ipam.Space, addr netip.Addr, rg ipam.Range) (place, error) {
	ref := ipam.ClaimRef{Space: sp.Name, Addr: addr}
	t.tried[ref] = true
	shared, err := a.share(ctx, sp, sp.Grid.Block(addr))
	if err != nil {
		return place{}, err
	}
	if !shared {
		return place{}, errRefused
	}
	if err := a.intend(t, ref); err != nil {
		return place{}, err
	}
	made, err := a.opts.Store.CreateClaim(ctx, a.newClaim(t, ref, rg))
	if errors.Is(err, ipam.ErrExists) {
		made, err = a.ours(ctx, t, ref)
	}
	if err != nil {
		return place{}, a.claimFailed(ref, err)
	}
	return place{Space: sp.Name, Addr: addr, Claim: &made.Version, suspect: a.sharedSuspect(sp, addr)}, nil
}

// sharedSuspect says that the address lies in a Shared block that was taken from
// a dead node. Nobody notes which addresses of it were asked for already, so each
// is, each time.
func (a *Agent) sharedSuspect(sp ipam.Space, addr netip.Addr) bool {
	hints := a.hints(sp.Name)
	a.mu.Lock()
	defer a.mu.Unlock()
	return hints.view[sp.Grid.Block(addr)].suspect
}

// claimFailed says whether another address may be tried.
func (a *Agent) claimFailed(ref ipam.ClaimRef, err error) error {
	if errors.Is(err, errRefused) {
		return err
	}
	a.wantScan() // it may be ours all the same
	return unavailable(fmt.Errorf("claim %s: %w", ref, err))
}

// ours reads a claim that exists. If it names this very attachment, the reply
// to its CREATE was lost: it is touched before it is used, so that no DELETE
// that is on its way can hit it.
func (a *Agent) ours(ctx context.Context, t *task, ref ipam.ClaimRef) (ipam.Claim, error) {
	c, err := a.opts.Store.GetClaim(ctx, ref)
	if errors.Is(err, ipam.ErrNotFound) {
		return ipam.Claim{}, errRefused
	}
	if err != nil {
		return ipam.Claim{}, err
	}
	if c.Owner.Key != t.key || !c.Node.Same(a.Node()) || c.State != a.claimState(t) {
		return ipam.Claim{}, errRefused
	}
	return a.update(ctx, c)
}

// update writes a claim; a claim that changed meanwhile is refused, and so is
// one whose address Whereabouts has (package ipam/whereabouts).
func (a *Agent) update(ctx context.Context, c ipam.Claim) (ipam.Claim, error) {
	made, err := a.opts.Store.UpdateClaim(ctx, c)
	if errors.Is(err, ipam.ErrStale) || errors.Is(err, ipam.ErrNotFound) {
		return ipam.Claim{}, errMeanwhile
	}
	if errors.Is(err, ipam.ErrTaken) {
		return ipam.Claim{}, errRefused
	}
	return made, err
}

// newClaim is the claim of t for an address.
func (a *Agent) newClaim(t *task, ref ipam.ClaimRef, rg ipam.Range) ipam.Claim {
	return ipam.Claim{
		Ref: ref, State: a.claimState(t), Node: a.Node(), Owner: t.req.Owner, Keep: t.req.Keep,
		Pool: rg.Pool, Since: time.Now().UTC().Truncate(time.Second),
	}
}

// claimState is that of a claim in use. One that an IPAMClaim keeps isn't bound
// to a sandbox: several may have it.
func (a *Agent) claimState(t *task) ipam.ClaimState {
	if t.req.Keep.Kind == ipam.KeepClaim {
		return ipam.Kept
	}
	return ipam.Bound
}

// intend logs which claim is about to be made, besides those that t has.
func (a *Agent) intend(t *task, ref ipam.ClaimRef) error {
	r := a.made(t, t.places)
	r.Places = append(r.Places, place{Space: ref.Space, Addr: ref.Addr})
	return a.write(entry{Op: opIntent, Record: r})
}

// share says whether addresses of the block may be claimed: it is Shared, which
// it stays, or it was absent and is made so.
func (a *Agent) share(ctx context.Context, sp ipam.Space, prefix netip.Prefix) (bool, error) {
	ref := ipam.BlockRef{Space: sp.Name, Prefix: prefix}
	hints := a.hints(sp.Name)
	a.mu.Lock()
	mine := a.state.blocks[ref] != nil
	s, seen := hints.view[prefix]
	a.mu.Unlock()
	if mine || seen && s.owner.Name != somebody {
		return !mine && s.mode == ipam.Shared, nil
	}
	b, err := a.opts.Store.GetBlock(ctx, ref)
	if errors.Is(err, ipam.ErrNotFound) && pause(ctx, rand.N(shareJitter)) == nil {
		// Many nodes may want it shared at this moment, and one suffices.
		b, err = a.opts.Store.GetBlock(ctx, ref)
	}
	if errors.Is(err, ipam.ErrNotFound) {
		b, err = a.opts.Store.CreateBlock(ctx, ipam.Block{Ref: ref, Mode: ipam.Shared})
		if errors.Is(err, ipam.ErrExists) {
			b, err = a.opts.Store.GetBlock(ctx, ref)
		}
	}
	if errors.Is(err, ipam.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, unavailable(fmt.Errorf("block %s: %w", ref, err))
	}
	a.see(sp.Name, prefix, sightOf(b))
	return b.Mode == ipam.Shared, nil
}

// findExact is the very address that is wanted.
func (a *Agent) findExact(ctx context.Context, t *task, w ipam.Want) (place, ipam.Range, error) {
	rg := w.Ranges[0]
	if i := slices.IndexFunc(w.Ranges, func(r ipam.Range) bool { return r.Subnet.Contains(w.Addr) || r.Usable.Contains(w.Addr) }); i >= 0 {
		rg = w.Ranges[i]
	}
	sp, err := a.space(ctx, rg.Space)
	if err != nil {
		return place{}, rg, err
	}
	ref := ipam.ClaimRef{Space: sp.Name, Addr: w.Addr}
	if slices.ContainsFunc(t.places, func(p place) bool { return p.ref() == ref }) {
		return place{}, rg, fmt.Errorf("%w: %s of space %s is asked for twice", ipam.ErrInvalid, w.Addr, sp.Name)
	}
	if p, mine, err := a.exactInBlock(t, sp, ref); mine && t.req.Keep.IsZero() || err != nil {
		return p, rg, err
	}
	if err := a.demand(ctx, sp, sp.Grid.Block(w.Addr)); err != nil {
		return place{}, rg, err
	}
	p, err := a.claim(ctx, t, sp, w.Addr, rg)
	if !errors.Is(err, errRefused) {
		return p, rg, err
	}
	c, err := a.opts.Store.GetClaim(ctx, ref)
	if err != nil {
		return place{}, rg, unavailable(fmt.Errorf("claim %s: %w", ref, err))
	}
	if c.State != ipam.Cooling {
		return place{}, rg, fmt.Errorf("%w: %s of space %s belongs to pod %s on node %s since %s; ask for another address or delete that pod",
			ipam.ErrTaken, w.Addr, sp.Name, c.Owner.Pod(), c.Node.Name, c.Since.Format(time.RFC3339))
	}
	p, err = a.takeOver(ctx, t, c, rg)
	if errors.Is(err, errRefused) {
		err = fmt.Errorf("%w: %s of space %s was taken by another at this moment", ipam.ErrTaken, w.Addr, sp.Name)
	}
	return p, rg, err
}

// exactInBlock takes the address in an own block, cooled or not; mine is false
// if the block is none of ours.
func (a *Agent) exactInBlock(t *task, sp ipam.Space, ref ipam.ClaimRef) (p place, mine bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.state.blockOf(sp.Name, ref.Addr)
	if b == nil || b.stage != stageReady {
		return place{}, false, nil
	}
	owner, taken := b.block.Owner(ref.Addr)
	other, reserved := a.reserved[ref]
	switch {
	case taken:
		who := string(owner)
		if key, err := ipam.ParseKey(who); err == nil && a.state.records[key] != nil {
			who = "pod " + a.state.records[key].Owner.Pod()
		}
		return place{}, true, fmt.Errorf("%w: %s of space %s belongs to %s on this node; ask for another address or delete that pod", ipam.ErrTaken, ref.Addr, sp.Name, who)
	case reserved && other != t.key:
		return place{}, true, fmt.Errorf("%w: %s of space %s is being given to %s", ipam.ErrTaken, ref.Addr, sp.Name, other)
	}
	if last := b.last[ref.Addr]; b.block.Cooling(ref.Addr, ticks(a.now())) && last != nil && a.opts.Alive(last.Owner, last.Netns) {
		return place{}, true, fmt.Errorf("%w: the sandbox that had %s of space %s is not gone yet (pod %s)", ipam.ErrNotReady, ref.Addr, sp.Name, last.Owner.Pod())
	}
	if t.req.Keep.IsZero() {
		p = a.reserve(t, b, ref.Addr)
	}
	return p, true, nil
}

// takeOver makes a Cooling or Kept claim that of t, by its version. As with a
// new claim, the block must be Shared: a claim in a leased block is the rest of
// a demotion that was cut short, and protects nobody from the block's node.
func (a *Agent) takeOver(ctx context.Context, t *task, c ipam.Claim, rg ipam.Range) (place, error) {
	t.tried[c.Ref] = true
	sp, err := a.space(ctx, rg.Space)
	if err != nil {
		return place{}, err
	}
	shared, err := a.share(ctx, sp, sp.Grid.Block(c.Ref.Addr))
	if err != nil {
		return place{}, err
	}
	if !shared || a.stillThere(c.Ref) {
		return place{}, errRefused
	}
	if err := a.intend(t, c.Ref); err != nil {
		return place{}, err
	}
	next := a.newClaim(t, c.Ref, rg)
	next.Version, next.Suspect = c.Version, c.Suspect
	made, err := a.update(ctx, next)
	if err != nil {
		return place{}, a.claimFailed(c.Ref, err)
	}
	return place{Space: c.Ref.Space, Addr: c.Ref.Addr, Claim: &made.Version, suspect: c.Suspect || a.sharedSuspect(sp, c.Ref.Addr)}, nil
}

// stillThere says that the sandbox on this node which had the claim isn't gone.
func (a *Agent) stillThere(ref ipam.ClaimRef) bool {
	a.mu.Lock()
	c := a.state.cooling[ref]
	a.mu.Unlock()
	return c != nil && c.last != nil && a.opts.Alive(c.last.Owner, c.last.Netns)
}
