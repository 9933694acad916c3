package ipamtest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// SetLag lets this handle's reads that may be old be so many changes behind the
// latest, as those of a watch are; 0 is the latest. Changes of before stay
// known.
func (m *Memory) SetLag(changes int) {
	w := m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	m.lag = changes
	switch {
	case changes == 0:
		w.laggards = slices.DeleteFunc(w.laggards, func(l *Memory) bool { return l == m })
		m.old = nil
	case m.old == nil:
		w.laggards = append(w.laggards, m)
		m.old, m.seen = w.now.clone(), w.dropped+len(w.changes)
	}
	w.trim()
}

// change applies a change and remembers it for the handles that lag.
func (w *world) change(c change) {
	w.now.apply(c)
	if len(w.laggards) == 0 {
		return
	}
	w.changes = append(w.changes, c)
	if len(w.changes) > 1<<12 {
		for _, m := range w.laggards {
			m.view()
		}
		w.trim()
	}
}

// trim drops the changes that all laggards have.
func (w *world) trim() {
	least := w.dropped + len(w.changes)
	for _, m := range w.laggards {
		least = min(least, m.seen)
	}
	w.changes = slices.Clone(w.changes[least-w.dropped:])
	w.dropped = least
}

// view is the state that this handle may see where reads may be old.
func (m *Memory) view() *tables {
	if m.old == nil {
		return m.w.now
	}
	for last := m.w.dropped + len(m.w.changes) - m.lag; m.seen < last; m.seen++ {
		m.old.apply(m.w.changes[m.seen-m.w.dropped])
	}
	return m.old
}

// NodeBlocks is ipam.Store's. With a lag it lacks what is younger.
func (m *Memory) NodeBlocks(ctx context.Context, node string) ([]ipam.Block, error) {
	return do(ctx, m, OpNodeBlocks, text(node), func(w *world) ([]ipam.Block, error) {
		old := m.view()
		return slices.DeleteFunc(w.now.blocksOf(w.now.node(node).blocks), func(b ipam.Block) bool {
			known, _ := old.block(b.Ref)
			return known.Version.UID != b.Version.UID || known.Owner.Name != node
		}), nil
	})
}

// NodeClaims is ipam.Store's. With a lag it lacks what is younger.
func (m *Memory) NodeClaims(ctx context.Context, node string) ([]ipam.Claim, error) {
	return do(ctx, m, OpNodeClaims, text(node), func(w *world) ([]ipam.Claim, error) {
		old := m.view()
		return slices.DeleteFunc(w.now.claimsOf(w.now.node(node).claims), func(c ipam.Claim) bool {
			known, _ := old.claim(c.Ref)
			return known.Version.UID != c.Version.UID || known.Node.Name != node
		}), nil
	})
}

// KeptClaims is ipam.Store's.
func (m *Memory) KeptClaims(ctx context.Context, keep ipam.Keeper) ([]ipam.Claim, error) {
	return do(ctx, m, OpKeptClaims, keep, func(w *world) ([]ipam.Claim, error) {
		return w.now.claimsOf(w.now.kept[keep]), nil
	})
}

// SpaceBlocks is ipam.Store's.
func (m *Memory) SpaceBlocks(ctx context.Context, space string, within iprange.Set) ([]ipam.Block, error) {
	return do(ctx, m, OpSpaceBlocks, text(space), func(*world) ([]ipam.Block, error) {
		return m.view().within(space, within), nil
	})
}

// SpaceClaims is ipam.Store's.
func (m *Memory) SpaceClaims(ctx context.Context, space string, within iprange.Set) ([]ipam.Claim, error) {
	return do(ctx, m, OpSpaceClaims, text(space), func(w *world) ([]ipam.Claim, error) {
		return w.now.claimsWithin(space, within), nil
	})
}

// Taken is ipam.Store's.
func (m *Memory) Taken(ctx context.Context, space string, within iprange.Set) (map[netip.Addr]bool, error) {
	return do(ctx, m, OpTaken, text(space), func(*world) (map[netip.Addr]bool, error) {
		taken := map[netip.Addr]bool{}
		for _, c := range m.view().claimsWithin(space, within) {
			taken[c.Ref.Addr] = true
		}
		return taken, nil
	})
}

// Nodes is ipam.Store's: those that hold something.
func (m *Memory) Nodes(ctx context.Context) (int, error) {
	return do(ctx, m, OpNodes, text(""), func(*world) (int, error) { return max(1, m.view().active()), nil })
}

// Ask is ipam.Store's.
func (m *Memory) Ask(ctx context.Context, node string, ref ipam.BlockRef) error {
	_, err := do(ctx, m, OpAsk, ref, func(w *world) (none, error) {
		if err := checkBlock(ref); err != nil {
			return none{}, err
		}
		inner(w.asked, node)[ref] = true
		return none{}, nil
	})
	return err
}

// Asked is ipam.Store's.
func (m *Memory) Asked(ctx context.Context, node string) ([]ipam.BlockRef, error) {
	return do(ctx, m, OpAsked, text(node), func(w *world) ([]ipam.BlockRef, error) {
		return slices.SortedFunc(maps.Keys(w.asked[node]), compareBlocks), nil
	})
}

// Answered is ipam.Store's.
func (m *Memory) Answered(ctx context.Context, node string, refs []ipam.BlockRef) error {
	refs = slices.Clone(refs)
	_, err := do(ctx, m, OpAnswered, text(node), func(w *world) (none, error) {
		for _, ref := range refs {
			delete(w.asked[node], ref)
		}
		return none{}, nil
	})
	return err
}

// Mirror is ipam.Store's.
func (m *Memory) Mirror(ctx context.Context, u ipam.Usage) (ipam.Version, error) {
	u.Bitmap, u.Owners = slices.Clone(u.Bitmap), slices.Clone(u.Owners)
	return do(ctx, m, OpMirror, u.Ref, func(w *world) (ipam.Version, error) {
		b, ok := w.now.block(u.Ref)
		if !ok {
			return ipam.Version{}, fmt.Errorf("block %s: %w", u.Ref, ipam.ErrNotFound)
		}
		if b.Version.UID != u.Version.UID {
			return ipam.Version{}, fmt.Errorf("block %s: %w", u.Ref, ipam.ErrStale)
		}
		b.Version = w.version(b.Version.UID)
		u.Version = b.Version
		w.usages[u.Ref] = u
		w.change(change{blockRef: u.Ref, block: &b})
		return b.Version, nil
	})
}

// Usage is what Mirror wrote last for a block that is there.
func (m *Memory) Usage(ref ipam.BlockRef) (ipam.Usage, bool) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	u, ok := m.w.usages[ref]
	return u, ok
}

// All are all blocks and claims, in order.
func (m *Memory) All() (blocks []ipam.Block, claims []ipam.Claim) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	for _, sizes := range m.w.now.blocks {
		for _, some := range sizes {
			blocks = slices.AppendSeq(blocks, maps.Values(some))
		}
	}
	for _, some := range m.w.now.claims {
		claims = slices.AppendSeq(claims, maps.Values(some))
	}
	sortBlocks(blocks)
	sortClaims(claims)
	return blocks, claims
}
