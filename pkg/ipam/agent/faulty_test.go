package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

var errNetwork = errors.New("the network failed")

// chaos decides what goes wrong. It is used by all goroutines of a simulation.
type chaos struct {
	mu sync.Mutex
	*rand.Rand
	// odds of a fault are 1 in this; 0 is none.
	odds int
	late []func()
	// killed is the machine that is to die in so many steps.
	killed string
	in     int
	// inside says that something happens already in the middle of a request.
	inside bool
}

func (c *chaos) IntN(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Rand.IntN(n)
}

func (c *chaos) Uint64N(n uint64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Rand.Uint64N(n)
}

// process is one run of a machine's agent.
type process struct {
	node string
	dead bool
}

// step is one step of a process; an error says that it is killed.
func (c *chaos) step(p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stepLocked(p)
}

func (c *chaos) stepLocked(p *process) error {
	if !p.dead && c.killed == p.node {
		if c.in--; c.in < 0 {
			c.killed, p.dead = "", true
		}
	}
	if p.dead {
		return errDead
	}
	return nil
}

// faulty is the way of one process to the store. What it sent may be lost on
// the way there, on the way back, or arrive much later, also when the process is
// dead by then.
type faulty struct {
	ipam.Store
	chaos *chaos
	proc  *process
	// others is called after a request to another node, meanwhile in the middle
	// of requests.
	others    func(node string)
	meanwhile func()
	// nodes is how many there seem to be.
	nodes int
}

// fate is what becomes of a request.
type fate int

const (
	fine fate = iota
	lost
	unanswered
	late
	killed // the process, before the request left it
	killedLate
)

func (c *chaos) fate(p *process, isWrite bool) fate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.dead {
		return killed
	}
	if c.stepLocked(p) != nil {
		if isWrite && c.Rand.IntN(2) == 0 {
			return killedLate
		}
		return killed
	}
	if c.odds == 0 || c.Rand.IntN(c.odds) > 0 {
		return fine
	}
	if !isWrite {
		return lost
	}
	return []fate{lost, unanswered, late}[c.Rand.IntN(3)]
}

func call[T any](f *faulty, isWrite bool, do func() (T, error)) (T, error) {
	var none T
	f.meanwhile()
	fate := f.chaos.fate(f.proc, isWrite)
	if fate == late || fate == killedLate {
		f.chaos.mu.Lock()
		f.chaos.late = append(f.chaos.late, func() { _, _ = do() })
		f.chaos.mu.Unlock()
	}
	switch fate {
	case killed, killedLate:
		return none, errDead
	case lost, late:
		return none, errNetwork
	case unanswered:
		_, _ = do()
		return none, errNetwork
	}
	got, err := do()
	f.meanwhile()
	if f.chaos.step(f.proc) != nil {
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
	if c.State == ipam.Bound && f.chaos.odds > 0 && f.chaos.IntN(100) == 0 {
		return ipam.Claim{}, ipam.ErrTaken // Whereabouts has it
	}
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
	return f.nodes, nil
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
