package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

const (
	// shareWait is how long an ADD waits until the node of a block shares it.
	shareWait = 10 * time.Second
	// sharePoll is between the first looks at such a block; each further wait is
	// half as long again, up to sharePollMost: a node that doesn't answer at once
	// may be down, and many pods may wait for it.
	sharePoll     = 50 * time.Millisecond
	sharePollMost = time.Second
	// staleTries is how often a cooling claim is tried that changes each time.
	staleTries = 3
	// asksAtOnce bounds the blocks that one ADD asks for together.
	asksAtOnce = 8
)

// fromOthers has blocks of other nodes shared, some at a time, and claims an
// address there: every free address of a range can be had on every node.
func (a *Agent) fromOthers(ctx context.Context, t *task, rg ipam.Range) (place, bool, error) {
	sp, err := a.space(ctx, rg.Space)
	if err != nil || sp.Grid.Blocks(rg.Usable).Count().Uint64() > viewBlocks {
		return place{}, false, err
	}
	if err := a.look(ctx, sp, rg); err != nil {
		return place{}, false, err
	}
	var leased []netip.Prefix
	for prefix, s := range a.seen(sp.Name) {
		if s.mode == ipam.Leased && rg.Usable.Overlaps(iprange.SetOf(iprange.OfPrefix(prefix))) {
			leased = append(leased, prefix)
		}
	}
	if !t.req.Keep.IsZero() {
		leased = append(leased, a.ownBlocks(sp.Name, rg.Usable)...)
	}
	slices.SortFunc(leased, func(x, y netip.Prefix) int { return x.Addr().Compare(y.Addr()) })
	for some := range slices.Chunk(leased, asksAtOnce) {
		if err := a.demand(ctx, sp, some...); err != nil && !errors.Is(err, errDeaf) {
			return place{}, false, err
		}
		p, found, err := a.fromClaims(ctx, t, sp, rg)
		if found || err != nil {
			return p, found, err
		}
	}
	return place{}, false, nil
}

// ownBlocks are the blocks of this node that meet the set.
func (a *Agent) ownBlocks(space string, within iprange.Set) []netip.Prefix {
	a.mu.Lock()
	defer a.mu.Unlock()
	var own []netip.Prefix
	for _, b := range a.state.bySpace[space] {
		if within.Overlaps(iprange.SetOf(iprange.OfPrefix(b.ref.Prefix))) {
			own = append(own, b.ref.Prefix)
		}
	}
	return own
}

// errDeaf says that a node didn't share its block in time.
var errDeaf = errors.New("the node that has the block doesn't share it")

// demand has blocks shared by whoever holds them, and waits for it.
func (a *Agent) demand(ctx context.Context, sp ipam.Space, prefixes ...netip.Prefix) error {
	ctx, cancel := context.WithTimeoutCause(ctx, shareWait, errDeaf)
	defer cancel()
	asked := map[netip.Prefix]bool{}
	for wait := time.Duration(0); ; wait = min(max(sharePoll, wait+wait/2), sharePollMost) {
		if err := pause(ctx, wait); err != nil {
			return unavailable(err)
		}
		var open []string
		for _, prefix := range prefixes {
			b, err := a.demandOne(ctx, ipam.BlockRef{Space: sp.Name, Prefix: prefix}, asked)
			if err != nil {
				return err
			}
			if b.Mode == ipam.Leased {
				open = append(open, fmt.Sprintf("%s (node %s)", b.Ref, b.Owner.Name))
			}
		}
		if len(open) == 0 {
			return nil
		}
	}
}

// demandOne reads a block and asks its holder once; an absent one is none to
// ask for.
func (a *Agent) demandOne(ctx context.Context, ref ipam.BlockRef, asked map[netip.Prefix]bool) (ipam.Block, error) {
	if a.isShared(ref) {
		return ipam.Block{}, nil
	}
	b, err := a.opts.Store.GetBlock(ctx, ref)
	if errors.Is(err, ipam.ErrNotFound) {
		a.forgetSight(ref.Space, ref.Prefix)
		return ipam.Block{}, nil
	}
	if err != nil {
		return ipam.Block{}, unavailable(fmt.Errorf("block %s: %w", ref, err))
	}
	a.see(ref.Space, ref.Prefix, sightOf(b))
	switch {
	case b.Mode == ipam.Shared:
		return b, nil
	case b.Owner.Same(a.Node()):
		if err := a.Demote(ctx, ref); err != nil {
			return b, err
		}
		return ipam.Block{}, nil
	case b.Owner.Name == "":
		return a.shareOwnerless(ctx, b)
	case asked[ref.Prefix]:
		return b, nil
	}
	asked[ref.Prefix] = true
	if err := a.opts.Store.Ask(ctx, b.Owner.Name, ref); err != nil {
		return b, unavailable(fmt.Errorf("ask node %s for block %s: %w", b.Owner.Name, ref, err))
	}
	return b, nil
}

// shareOwnerless shares a block that was taken from a dead node and that nobody
// has taken over.
func (a *Agent) shareOwnerless(ctx context.Context, b ipam.Block) (ipam.Block, error) {
	b.Mode = ipam.Shared
	made, err := a.opts.Store.UpdateBlock(ctx, b)
	if err != nil {
		return ipam.Block{Ref: b.Ref, Mode: ipam.Leased}, nil //nolint:nilerr // it is looked at again
	}
	a.see(b.Ref.Space, b.Ref.Prefix, sightOf(made))
	return made, nil
}

func (a *Agent) isShared(ref ipam.BlockRef) bool {
	hints := a.hints(ref.Space)
	a.mu.Lock()
	defer a.mu.Unlock()
	return hints.view[ref.Prefix].mode == ipam.Shared
}

// pause waits for a time, or for the end of ctx, whose cause it returns.
func pause(ctx context.Context, wait time.Duration) error {
	if wait <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fromCooling takes an address that was released and still rests, if the
// sandbox that had it is gone. Of claims it takes any and not the oldest: where
// nothing else is left, other nodes are looking for one at the same moment.
func (a *Agent) fromCooling(ctx context.Context, t *task, rg ipam.Range) (place, bool, error) {
	sp, err := a.space(ctx, rg.Space)
	if err != nil {
		return place{}, false, err
	}
	if p, ok := a.coolingInBlocks(t, sp, rg); ok {
		return p, true, nil
	}
	if rg.Usable.Count().Cmp(iprange.From64(certainAddrs)) > 0 {
		return place{}, false, nil
	}
	if a.tellAll(ctx, sp.Name, rg.Usable) {
		clear(t.claims)
	}
	lost := map[ipam.ClaimRef]int{}
	for losses := 1; ; losses++ {
		claims, err := a.claims(ctx, t, sp.Name, rg.Usable)
		if err != nil {
			return place{}, false, err
		}
		claims = slices.DeleteFunc(slices.Clone(claims), func(c ipam.Claim) bool { return c.State != ipam.Cooling || t.tried[c.Ref] })
		if len(claims) == 0 && len(lost) > 0 {
			return a.fromClaims(ctx, t, sp, rg) // one that was lost may have been deleted
		}
		if len(claims) == 0 {
			return place{}, false, nil
		}
		c := claims[rand.IntN(len(claims))]
		p, err := a.takeOver(ctx, t, c, rg)
		if !errors.Is(err, errRefused) {
			return p, err == nil, err
		}
		if lost[c.Ref]++; errors.Is(err, errMeanwhile) && lost[c.Ref] < staleTries {
			delete(t.tried, c.Ref)
		}
		clear(t.claims)
		if err := pause(ctx, rand.N(time.Duration(min(losses, lossMost))*lossPause)); err != nil {
			return place{}, false, unavailable(err)
		}
	}
}

func (a *Agent) coolingInBlocks(t *task, sp ipam.Space, rg ipam.Range) (place, bool) {
	if !t.req.Keep.IsZero() {
		return place{}, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.state.free(sp.Name) {
		if b.stage != stageReady {
			continue
		}
		for _, addr := range b.block.Free(rg.Usable) {
			ref := ipam.ClaimRef{Space: sp.Name, Addr: addr}
			last := b.last[addr]
			_, reserved := a.reserved[ref]
			if reserved || t.tried[ref] || a.avoided(ref) || last != nil && a.opts.Alive(last.Owner, last.Netns) {
				continue
			}
			return a.reserve(t, b, addr), true
		}
	}
	return place{}, false
}

// findKept is the address that is kept for the request's keeper.
func (a *Agent) findKept(ctx context.Context, t *task, w ipam.Want) (p place, rg ipam.Range, found bool, err error) {
	claims, err := a.opts.Store.KeptClaims(ctx, t.req.Keep)
	if err != nil {
		return place{}, ipam.Range{}, false, unavailable(fmt.Errorf("addresses of %s: %w", t.req.Keep, err))
	}
	for _, c := range claims {
		i := slices.IndexFunc(w.Ranges, func(r ipam.Range) bool {
			return r.Space.Name == c.Ref.Space && r.Usable.Contains(c.Ref.Addr)
		})
		used := slices.ContainsFunc(t.places, func(p place) bool { return p.ref() == c.Ref })
		if i < 0 || used || t.tried[c.Ref] || w.Addr.IsValid() && w.Addr != c.Ref.Addr {
			continue
		}
		if _, err := a.space(ctx, w.Ranges[i].Space); err != nil {
			return place{}, ipam.Range{}, false, err
		}
		p, err := a.takeKept(ctx, t, c, w.Ranges[i])
		p.kept = true
		return p, w.Ranges[i], err == nil, err
	}
	return place{}, ipam.Range{}, false, nil
}

func (a *Agent) takeKept(ctx context.Context, t *task, c ipam.Claim, rg ipam.Range) (place, error) {
	if t.req.Keep.Kind == ipam.KeepClaim {
		return a.join(ctx, t, c, rg)
	}
	if c.Owner.Key == t.key && c.Node.Same(a.Node()) && c.State == ipam.Bound {
		made, err := a.ours(ctx, t, c.Ref)
		return place{Space: c.Ref.Space, Addr: c.Ref.Addr, Claim: &made.Version}, err
	}
	waits := fmt.Errorf("%w: %s is kept for %s and still held by container %s on node %s; it is free once that sandbox is deleted",
		ipam.ErrNotReady, c.Ref.Addr, t.req.Keep, c.Owner.ContainerID, c.Node.Name)
	if c.State == ipam.Bound {
		return place{}, waits
	}
	p, err := a.takeOver(ctx, t, c, rg)
	if errors.Is(err, errRefused) {
		return place{}, waits
	}
	return p, err
}

// join takes part in an address that an IPAMClaim keeps, whoever else has it. It
// is touched, so that no DELETE that was sent before can hit it.
func (a *Agent) join(ctx context.Context, t *task, c ipam.Claim, rg ipam.Range) (place, error) {
	if err := a.intend(t, c.Ref); err != nil {
		return place{}, err
	}
	next := a.newClaim(t, c.Ref, rg)
	next.Version = c.Version
	made, err := a.update(ctx, next)
	if errors.Is(err, errRefused) {
		return place{}, fmt.Errorf("%w: %s of %s changed at this moment", ipam.ErrNotReady, c.Ref.Addr, t.req.Keep)
	}
	if err != nil {
		return place{}, a.claimFailed(c.Ref, err)
	}
	return place{Space: c.Ref.Space, Addr: c.Ref.Addr, Claim: &made.Version, joined: true}, nil
}

// exhausted says in numbers why there is no address.
func (a *Agent) exhausted(ctx context.Context, t *task, w ipam.Want) error {
	texts := make([]string, 0, len(w.Ranges))
	for _, rg := range w.Ranges {
		texts = append(texts, a.account(ctx, t, rg))
	}
	return fmt.Errorf("%w: %s; free some, or widen the range", ipam.ErrExhausted, strings.Join(texts, "; "))
}

// account counts what became of the addresses of a range.
func (a *Agent) account(ctx context.Context, t *task, rg ipam.Range) string {
	text := fmt.Sprintf("range %s of space %s has %s usable", rg.Text, rg.Space.Name, rg.Usable.Count())
	if rg.Pool != "" {
		text = fmt.Sprintf("pool %s: %s", rg.Pool, text)
	}
	claims, err := a.claims(ctx, t, rg.Space.Name, rg.Usable)
	if err != nil {
		return fmt.Sprintf("%s (who has them can't be read: %v)", text, err)
	}
	counts, owners := map[ipam.ClaimState]int{}, map[string]int{}
	for _, c := range claims {
		counts[c.State]++
		owners[group(c.Owner)]++
	}
	used, resting := a.usedHere(rg, owners)
	text += fmt.Sprintf(": %d claimed, %d cooling, %d kept", counts[ipam.Bound], counts[ipam.Cooling], counts[ipam.Kept])
	if used+resting > 0 {
		text += fmt.Sprintf(", %d in use and %d cooling in blocks of this node", used, resting)
	}
	nodes := map[string]int{}
	for prefix, s := range a.seen(rg.Space.Name) {
		if s.mode == ipam.Leased && rg.Usable.Overlaps(iprange.SetOf(iprange.OfPrefix(prefix))) {
			nodes["node "+s.owner.Name]++
		}
	}
	if len(nodes) > 0 {
		text += "; blocks that are not shared in time: " + biggest(nodes)
	}
	if len(owners) > 0 {
		text += "; most have " + biggest(owners)
	}
	return text
}

// usedHere counts what this node's blocks have of the range.
func (a *Agent) usedHere(rg ipam.Range, owners map[string]int) (used, cooling int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.state.bySpace[rg.Space.Name] {
		counts := b.block.Count(rg.Usable, ticks(a.now()))
		used += counts.Used
		cooling += counts.Cooling
	}
	for _, r := range a.state.records {
		for _, p := range r.Places {
			if p.InBlock && p.Claim == nil && p.Space == rg.Space.Name && rg.Usable.Contains(p.Addr) {
				owners[group(r.Owner)]++
			}
		}
	}
	return used, cooling
}

// group is by what owners are counted.
func group(o ipam.Owner) string {
	if o.PodNamespace == "" {
		return "sandboxes without a pod"
	}
	return "namespace " + o.PodNamespace
}

// biggest names the three with the most, the first of equals by name.
func biggest(counts map[string]int) string {
	names := slices.SortedFunc(maps.Keys(counts), func(x, y string) int {
		if counts[x] != counts[y] {
			return counts[y] - counts[x]
		}
		return strings.Compare(x, y)
	})
	var texts []string
	for _, name := range names[:min(3, len(names))] {
		texts = append(texts, fmt.Sprintf("%s: %d", name, counts[name]))
	}
	return strings.Join(texts, ", ")
}
