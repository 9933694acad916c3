package ipamtest

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"sync"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// Memory is a handle on an ipam.Store in memory; As gives more of them on the
// same one, for as many nodes. Faults, counts and what waits are common to all
// handles.
type Memory struct {
	w   *world
	who string

	// Under the world's lock: how many changes lists may be behind, the state
	// as it was then, and the changes it has.
	lag  int
	old  *tables
	seen int
}

var _ ipam.Store = (*Memory)(nil)

// world is what the handles share.
type world struct {
	mu     sync.Mutex
	now    *tables
	usages map[ipam.BlockRef]ipam.Usage
	asked  map[string]map[ipam.BlockRef]bool
	serial uint64

	faults Faults
	late   []waiting
	counts map[Op]int

	laggards []*Memory
	changes  []change // kept while there are laggards
	dropped  int      // changes that all laggards have
}

// NewMemory is an empty store.
func NewMemory() *Memory {
	return &Memory{w: &world{
		now: newTables(), usages: map[ipam.BlockRef]ipam.Usage{},
		asked: map[string]map[ipam.BlockRef]bool{}, counts: map[Op]int{},
	}}
}

// As is one more handle on the same store; who tells calls apart (see Call).
func (m *Memory) As(who string) *Memory { return &Memory{w: m.w, who: who} }

// version makes the version of an object that is written; a new object gets a
// new UID.
func (w *world) version(uid string) ipam.Version {
	w.serial++
	if uid == "" {
		uid = "uid-" + strconv.FormatUint(w.serial, 10)
	}
	return ipam.Version{UID: uid, Resource: strconv.FormatUint(w.serial, 10)}
}

// Space is ipam.Store's.
func (m *Memory) Space(ctx context.Context, as ipam.Space) (ipam.Space, error) {
	return do(ctx, m, OpSpace, text(as.Name), func(w *world) (ipam.Space, error) {
		if err := ipam.CheckSpaceName(as.Name); err != nil {
			return ipam.Space{}, err
		}
		if s, ok := w.now.spaces[as.Name]; ok {
			return s, nil
		}
		if err := as.Grid.Check(); err != nil {
			return ipam.Space{}, fmt.Errorf("address space %s: %w", as.Name, err)
		}
		as.Version = w.version("")
		w.now.spaces[as.Name] = as
		return as, nil
	})
}

// GetBlock is ipam.Store's.
func (m *Memory) GetBlock(ctx context.Context, ref ipam.BlockRef) (ipam.Block, error) {
	return do(ctx, m, OpGetBlock, ref, func(w *world) (ipam.Block, error) {
		if err := checkBlock(ref); err != nil {
			return ipam.Block{}, err
		}
		b, ok := w.now.block(ref)
		if !ok {
			return b, fmt.Errorf("block %s: %w", ref, ipam.ErrNotFound)
		}
		return b, nil
	})
}

// CreateBlock is ipam.Store's.
func (m *Memory) CreateBlock(ctx context.Context, b ipam.Block) (ipam.Block, error) {
	return do(ctx, m, OpCreateBlock, b.Ref, func(w *world) (ipam.Block, error) {
		if err := checkBlock(b.Ref); err != nil {
			return ipam.Block{}, err
		}
		if _, ok := w.now.block(b.Ref); ok {
			return ipam.Block{}, fmt.Errorf("block %s: %w", b.Ref, ipam.ErrExists)
		}
		b.Version = w.version("")
		w.change(change{blockRef: b.Ref, block: &b})
		return b, nil
	})
}

// matches says why an object that is there, or isn't, is not the one meant.
func matches(have ipam.Version, ok bool, want ipam.Version, ref fmt.Stringer) error {
	if !ok {
		return fmt.Errorf("%s: %w", ref, ipam.ErrNotFound)
	}
	if have != want {
		return fmt.Errorf("%s: %w", ref, ipam.ErrStale)
	}
	return nil
}

// UpdateBlock is ipam.Store's.
func (m *Memory) UpdateBlock(ctx context.Context, b ipam.Block) (ipam.Block, error) {
	return do(ctx, m, OpUpdateBlock, b.Ref, func(w *world) (ipam.Block, error) {
		have, ok := w.now.block(b.Ref)
		if err := matches(have.Version, ok, b.Version, b.Ref); err != nil {
			return ipam.Block{}, err
		}
		b.Version = w.version(have.Version.UID)
		w.change(change{blockRef: b.Ref, block: &b})
		return b, nil
	})
}

// DeleteBlock is ipam.Store's.
func (m *Memory) DeleteBlock(ctx context.Context, ref ipam.BlockRef, v ipam.Version) error {
	_, err := do(ctx, m, OpDeleteBlock, ref, func(w *world) (none, error) {
		have, ok := w.now.block(ref)
		if err := matches(have.Version, ok, v, ref); err != nil {
			return none{}, err
		}
		delete(w.usages, ref)
		w.change(change{blockRef: ref})
		return none{}, nil
	})
	return err
}

// GetClaim is ipam.Store's.
func (m *Memory) GetClaim(ctx context.Context, ref ipam.ClaimRef) (ipam.Claim, error) {
	return do(ctx, m, OpGetClaim, ref, func(w *world) (ipam.Claim, error) {
		if err := checkClaim(ref); err != nil {
			return ipam.Claim{}, err
		}
		c, ok := w.now.claim(ref)
		if !ok {
			return c, fmt.Errorf("claim %s: %w", ref, ipam.ErrNotFound)
		}
		return c, nil
	})
}

// CreateClaim is ipam.Store's.
func (m *Memory) CreateClaim(ctx context.Context, c ipam.Claim) (ipam.Claim, error) {
	return do(ctx, m, OpCreateClaim, c.Ref, func(w *world) (ipam.Claim, error) {
		if err := checkClaim(c.Ref); err != nil {
			return ipam.Claim{}, err
		}
		if _, ok := w.now.claim(c.Ref); ok {
			return ipam.Claim{}, fmt.Errorf("claim %s: %w", c.Ref, ipam.ErrExists)
		}
		c.Version = w.version("")
		w.change(change{claimRef: c.Ref, claim: &c})
		return c, nil
	})
}

// UpdateClaim is ipam.Store's.
func (m *Memory) UpdateClaim(ctx context.Context, c ipam.Claim) (ipam.Claim, error) {
	return do(ctx, m, OpUpdateClaim, c.Ref, func(w *world) (ipam.Claim, error) {
		have, ok := w.now.claim(c.Ref)
		if err := matches(have.Version, ok, c.Version, c.Ref); err != nil {
			return ipam.Claim{}, err
		}
		c.Version = w.version(have.Version.UID)
		w.change(change{claimRef: c.Ref, claim: &c})
		return c, nil
	})
}

// DeleteClaim is ipam.Store's.
func (m *Memory) DeleteClaim(ctx context.Context, ref ipam.ClaimRef, v ipam.Version) error {
	_, err := do(ctx, m, OpDeleteClaim, ref, func(w *world) (none, error) {
		have, ok := w.now.claim(ref)
		if err := matches(have.Version, ok, v, ref); err != nil {
			return none{}, err
		}
		w.change(change{claimRef: ref})
		return none{}, nil
	})
	return err
}

type none struct{}

// checkBlock refuses what BlockRef.String gives no name of its own.
func checkBlock(ref ipam.BlockRef) error {
	if err := ipam.CheckSpaceName(ref.Space); err != nil {
		return err
	}
	if !ref.Prefix.IsValid() || ref.Prefix.Masked() != ref.Prefix || !plain(ref.Prefix.Addr()) {
		return fmt.Errorf("%q is no block of %s", ref.Prefix, ref.Space)
	}
	return nil
}

// checkClaim refuses what ClaimRef.String gives no name of its own.
func checkClaim(ref ipam.ClaimRef) error {
	if err := ipam.CheckSpaceName(ref.Space); err != nil {
		return err
	}
	if !plain(ref.Addr) {
		return fmt.Errorf("%q is no address for a claim in %s", ref.Addr, ref.Space)
	}
	return nil
}

func plain(addr netip.Addr) bool {
	return addr.IsValid() && addr.Zone() == "" && !addr.Is4In6()
}
