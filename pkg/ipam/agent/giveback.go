package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

const (
	// returnAfter is between the two looks that find a block empty.
	returnAfter = 60 * time.Second
	// spare is how many free addresses the other blocks of a space must have
	// before an empty one is given back.
	spare = 2 * lowWater
)

// GiveBack returns blocks that have been empty for a while, and finishes what
// an earlier try began.
func (a *Agent) GiveBack(ctx context.Context) error {
	var errs []error
	for _, ref := range a.returnable() {
		errs = append(errs, a.giveBack(ctx, ref))
	}
	return errors.Join(errs...)
}

// giveBack deletes one block, by the version that we know. A suspect one stays,
// without an owner: not all of its addresses were asked for.
func (a *Agent) giveBack(ctx context.Context, ref ipam.BlockRef) error {
	release, err := take(ctx, a.hints(ref.Space).leasing, "a block of the space is being leased or shared")
	if err != nil {
		return err
	}
	defer release()
	a.mu.Lock()
	b := a.state.blocks[ref]
	if b == nil || b.stage == stageFormer || !a.unused(b) {
		a.mu.Unlock()
		return nil
	}
	t, err := a.order(a.log.Append, entry{Op: opReturning, Block: &ref})
	v, suspect := b.version, b.suspect
	a.mu.Unlock()
	if err == nil {
		err = t.Wait()
	}
	if err != nil {
		return err
	}
	if suspect {
		_, err = a.opts.Store.UpdateBlock(ctx, ipam.Block{Ref: ref, Mode: ipam.Leased, Suspect: true, Version: v})
	} else {
		err = a.opts.Store.DeleteBlock(ctx, ref, v)
	}
	switch {
	case errors.Is(err, ipam.ErrStale):
		return a.reread(ctx, ref)
	case err != nil && !errors.Is(err, ipam.ErrNotFound):
		return unavailable(fmt.Errorf("return block %s: %w", ref, err))
	}
	return a.write(entry{Op: opGone, Block: &ref})
}

// unused says that nothing of the block is assigned, reserved or claimed; under
// the agent's lock.
func (a *Agent) unused(b *held) bool {
	if !b.block.IsEmpty() {
		return false
	}
	within := func(ref ipam.ClaimRef) bool { return ref.Space == b.ref.Space && b.ref.Prefix.Contains(ref.Addr) }
	for ref := range a.reserved {
		if within(ref) {
			return false
		}
	}
	for ref := range a.state.owners {
		if within(ref) {
			return false
		}
	}
	for ref := range a.state.cooling {
		if within(ref) {
			return false
		}
	}
	for _, r := range a.state.intents {
		for _, p := range r.Places {
			if within(p.ref()) {
				return false
			}
		}
	}
	return true
}

// returnable are the blocks to give back now.
func (a *Agent) returnable() []ipam.BlockRef {
	a.mu.Lock()
	defer a.mu.Unlock()
	var refs []ipam.BlockRef
	for _, blocks := range a.state.bySpace {
		free := 0
		for _, b := range blocks {
			if b.stage == stageReady {
				free += b.block.Size() - b.block.Used()
			}
		}
		for _, b := range blocks {
			switch {
			case b.stage == stageFormer:
			case !a.unused(b):
				b.empty = 0
			case b.stage == stageReturning:
				refs = append(refs, b.ref)
			case b.empty == 0:
				b.empty = max(a.now(), 1)
			case a.now()-b.empty >= returnAfter && free-b.block.Size() >= spare && !a.resting(b):
				free -= b.block.Size()
				refs = append(refs, b.ref)
			}
		}
	}
	return refs
}

// resting says that an address of the block still cools.
func (a *Agent) resting(b *held) bool {
	all := iprange.SetOf(iprange.OfPrefix(b.ref.Prefix))
	return b.block.Count(all, ticks(a.now())).Cooling > 0
}

// Resume makes an end of blocks that the log calls returning though they are in
// use: a demotion that was cut short. They are shared if somebody still asks
// for them, else touched and used again.
func (a *Agent) Resume(ctx context.Context) error {
	cut := a.cutShort()
	if len(cut) == 0 {
		return nil
	}
	asked, err := a.opts.Store.Asked(ctx, a.Node().Name)
	if err != nil {
		return err
	}
	wanted := map[ipam.BlockRef]bool{}
	for _, ref := range asked {
		wanted[ref] = true
	}
	var errs []error
	for _, ref := range cut {
		if wanted[ref] {
			errs = append(errs, a.Demote(ctx, ref))
			continue
		}
		errs = append(errs, a.cancelReturn(ctx, ref))
	}
	return errors.Join(errs...)
}

func (a *Agent) cutShort() []ipam.BlockRef {
	a.mu.Lock()
	defer a.mu.Unlock()
	var refs []ipam.BlockRef
	for ref, b := range a.state.blocks {
		if b.stage == stageReturning && !a.unused(b) {
			refs = append(refs, ref)
		}
	}
	return refs
}

// cancelReturn takes a block into use again: touched first, so that a DELETE
// that is still on its way can't hit it.
func (a *Agent) cancelReturn(ctx context.Context, ref ipam.BlockRef) error {
	release, err := take(ctx, a.hints(ref.Space).leasing, "a block of the space is being leased or shared")
	if err != nil {
		return err
	}
	defer release()
	a.mu.Lock()
	b := a.state.blocks[ref]
	if b == nil || b.stage != stageReturning {
		a.mu.Unlock()
		return nil
	}
	next := ipam.Block{Ref: ref, Mode: ipam.Leased, Owner: a.state.node, Suspect: b.suspect, Version: b.version}
	a.mu.Unlock()
	made, err := a.opts.Store.UpdateBlock(ctx, next)
	if errors.Is(err, ipam.ErrStale) || errors.Is(err, ipam.ErrNotFound) {
		return a.reread(ctx, ref)
	}
	if err != nil {
		return unavailable(fmt.Errorf("touch block %s: %w", ref, err))
	}
	return a.write(entry{Op: opReady, Block: &ref, Version: &made.Version, Suspect: next.Suspect})
}
