package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

var errNetwork = errors.New("the network failed")

// chaos decides what goes wrong; the same seed decides the same.
type chaos struct {
	*rand.Rand
	// odds of a fault are 1 in this; 0 is none.
	odds int
	late []func()
	// killed is the machine that is to die in so many steps.
	killed string
	in     int
}

// step is one step of a machine's process; an error kills it.
func (c *chaos) step(node string) error {
	if c.killed != node {
		return nil
	}
	if c.in--; c.in >= 0 {
		return nil
	}
	c.killed = ""
	return errDead
}

// faulty is the way of one process to the store. What it sent may be lost on
// the way there, on the way back, or arrive much later, also when the process is
// dead by then.
type faulty struct {
	ipam.Store
	chaos *chaos
	node  string
	dead  bool
	// others is called after a request to another node.
	others func(node string)
	// nodes is how many there seem to be.
	nodes int
}

func call[T any](f *faulty, isWrite bool, do func() (T, error)) (T, error) {
	var none T
	if f.dead {
		return none, errDead
	}
	if f.chaos.step(f.node) != nil {
		f.dead = true
		if isWrite && f.chaos.IntN(2) == 0 {
			f.chaos.late = append(f.chaos.late, func() { _, _ = do() })
		}
		return none, errDead
	}
	if f.chaos.odds > 0 && f.chaos.IntN(f.chaos.odds) == 0 {
		switch kind := f.chaos.IntN(3); {
		case kind == 0 || !isWrite:
			return none, errNetwork
		case kind == 1:
			f.chaos.late = append(f.chaos.late, func() { _, _ = do() })
			return none, errNetwork
		default:
			_, _ = do()
			return none, errNetwork
		}
	}
	got, err := do()
	if f.chaos.step(f.node) != nil {
		f.dead = true
		return none, errDead
	}
	return got, err
}

func (f *faulty) Space(ctx context.Context, as ipam.Space) (ipam.Space, error) {
	return call(f, true, func() (ipam.Space, error) { return f.Store.Space(ctx, as) })
}

func (f *faulty) GetBlock(ctx context.Context, r ipam.BlockRef) (ipam.Block, error) {
	return call(f, false, func() (ipam.Block, error) { return f.Store.GetBlock(ctx, r) })
}

func (f *faulty) CreateBlock(ctx context.Context, b ipam.Block) (ipam.Block, error) {
	return call(f, true, func() (ipam.Block, error) { return f.Store.CreateBlock(ctx, b) })
}

func (f *faulty) UpdateBlock(ctx context.Context, b ipam.Block) (ipam.Block, error) {
	return call(f, true, func() (ipam.Block, error) { return f.Store.UpdateBlock(ctx, b) })
}

func (f *faulty) DeleteBlock(ctx context.Context, r ipam.BlockRef, v ipam.Version) error {
	_, err := call(f, true, func() (any, error) { return nil, f.Store.DeleteBlock(ctx, r, v) })
	return err
}

func (f *faulty) GetClaim(ctx context.Context, r ipam.ClaimRef) (ipam.Claim, error) {
	return call(f, false, func() (ipam.Claim, error) { return f.Store.GetClaim(ctx, r) })
}

func (f *faulty) CreateClaim(ctx context.Context, c ipam.Claim) (ipam.Claim, error) {
	return call(f, true, func() (ipam.Claim, error) { return f.Store.CreateClaim(ctx, c) })
}

func (f *faulty) UpdateClaim(ctx context.Context, c ipam.Claim) (ipam.Claim, error) {
	return call(f, true, func() (ipam.Claim, error) { return f.Store.UpdateClaim(ctx, c) })
}

func (f *faulty) DeleteClaim(ctx context.Context, r ipam.ClaimRef, v ipam.Version) error {
	_, err := call(f, true, func() (any, error) { return nil, f.Store.DeleteClaim(ctx, r, v) })
	return err
}

func (f *faulty) NodeBlocks(ctx context.Context, node string) ([]ipam.Block, error) {
	return call(f, false, func() ([]ipam.Block, error) {
		got, err := f.Store.NodeBlocks(ctx, node)
		return some(f.chaos, got), err
	})
}

func (f *faulty) NodeClaims(ctx context.Context, node string) ([]ipam.Claim, error) {
	return call(f, false, func() ([]ipam.Claim, error) {
		got, err := f.Store.NodeClaims(ctx, node)
		return some(f.chaos, got), err
	})
}

func (f *faulty) SpaceBlocks(ctx context.Context, space string, within iprange.Set) ([]ipam.Block, error) {
	return call(f, false, func() ([]ipam.Block, error) {
		got, err := f.Store.SpaceBlocks(ctx, space, within)
		return some(f.chaos, got), err
	})
}

func (f *faulty) SpaceClaims(ctx context.Context, space string, within iprange.Set) ([]ipam.Claim, error) {
	return call(f, false, func() ([]ipam.Claim, error) { return f.Store.SpaceClaims(ctx, space, within) })
}

func (f *faulty) Taken(ctx context.Context, space string, within iprange.Set) (map[netip.Addr]bool, error) {
	return call(f, false, func() (map[netip.Addr]bool, error) {
		got, err := f.Store.Taken(ctx, space, within)
		for a := range got { // a hint may be old in both directions
			if f.chaos.odds > 0 && f.chaos.IntN(10) == 0 {
				delete(got, a)
				got[a.Next()] = true
			}
		}
		return got, err
	})
}

func (f *faulty) KeptClaims(ctx context.Context, keep ipam.Keeper) ([]ipam.Claim, error) {
	return call(f, false, func() ([]ipam.Claim, error) { return f.Store.KeptClaims(ctx, keep) })
}

func (f *faulty) Ask(ctx context.Context, node string, r ipam.BlockRef) error {
	_, err := call(f, true, func() (any, error) { return nil, f.Store.Ask(ctx, node, r) })
	if err == nil {
		f.others(node)
	}
	return err
}

func (f *faulty) Asked(ctx context.Context, node string) ([]ipam.BlockRef, error) {
	return call(f, false, func() ([]ipam.BlockRef, error) { return f.Store.Asked(ctx, node) })
}

func (f *faulty) Answered(ctx context.Context, node string, refs []ipam.BlockRef) error {
	_, err := call(f, true, func() (any, error) { return nil, f.Store.Answered(ctx, node, refs) })
	return err
}

func (f *faulty) Nodes(context.Context) (int, error) {
	return call(f, false, func() (int, error) { return f.nodes, nil })
}

func (f *faulty) Mirror(ctx context.Context, u ipam.Usage) (ipam.Version, error) {
	return call(f, true, func() (ipam.Version, error) { return f.Store.Mirror(ctx, u) })
}

// some is a list that may be old: it misses what was made a moment ago.
func some[T any](c *chaos, all []T) []T {
	if c.odds > 0 && len(all) > 0 && c.IntN(8) == 0 {
		return all[:len(all)-1]
	}
	return all
}
