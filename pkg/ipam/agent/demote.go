package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// claimsInParallel are made at once while a block is shared.
const claimsInParallel = 8

// Answer shares the blocks that other nodes ask for.
func (a *Agent) Answer(ctx context.Context) error {
	node := a.Node().Name
	asked, err := a.opts.Store.Asked(ctx, node)
	if err != nil || len(asked) == 0 {
		return err
	}
	var errs []error
	var done []ipam.BlockRef
	for _, ref := range asked {
		if err := a.Demote(ctx, ref); err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, ref)
	}
	if len(done) > 0 {
		errs = append(errs, a.opts.Store.Answered(ctx, node, done))
	}
	return errors.Join(errs...)
}

// Demote shares one of this node's blocks: nothing more is assigned in it,
// every address that is assigned gets a claim, then the block becomes Shared. A
// block that isn't ours is none to share.
func (a *Agent) Demote(ctx context.Context, ref ipam.BlockRef) error {
	hints := a.hints(ref.Space)
	release, err := take(ctx, hints.leasing, "a block of the space is being leased or shared")
	if err != nil {
		return err
	}
	defer release()
	a.mu.Lock()
	b := a.state.blocks[ref]
	a.mu.Unlock()
	switch {
	case b == nil:
		return nil
	case b.stage == stageFormer:
		return fmt.Errorf("%w: block %s of an earlier boot isn't taken back yet", ipam.ErrNotReady, ref)
	}
	if err := a.write(entry{Op: opReturning, Block: &ref}); err != nil {
		return err
	}
	return a.finishDemotion(ctx, ref)
}

// finishDemotion goes on with a block that the log calls returning.
func (a *Agent) finishDemotion(ctx context.Context, ref ipam.BlockRef) error {
	if err := a.claimAssigned(ctx, ref); err != nil {
		return err
	}
	a.mu.Lock()
	b := a.state.blocks[ref]
	a.mu.Unlock()
	if b == nil {
		return nil
	}
	_, err := a.opts.Store.UpdateBlock(ctx, ipam.Block{Ref: ref, Mode: ipam.Shared, Suspect: b.suspect, Version: a.version(b)})
	if errors.Is(err, ipam.ErrStale) || errors.Is(err, ipam.ErrNotFound) {
		return a.reread(ctx, ref)
	}
	if err != nil {
		return unavailable(fmt.Errorf("share block %s: %w", ref, err))
	}
	a.see(ref.Space, ref.Prefix, sight{mode: ipam.Shared, suspect: b.suspect})
	a.opts.Log.Info("a block is shared now", "block", ref.String())
	return a.write(entry{Op: opGone, Block: &ref})
}

func (a *Agent) version(b *held) ipam.Version {
	a.mu.Lock()
	defer a.mu.Unlock()
	return b.version
}

// claimAssigned makes a claim for each assigned address of a block in which
// nothing is assigned any more, and for each that still cools.
func (a *Agent) claimAssigned(ctx context.Context, ref ipam.BlockRef) error {
	claims := a.unclaimed(ref)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(claimsInParallel)
	for _, c := range claims {
		group.Go(func() error { return a.claimFor(ctx, c) })
	}
	return group.Wait()
}

// unclaimed are the claims that a block's addresses need before it is shared.
func (a *Agent) unclaimed(ref ipam.BlockRef) []ipam.Claim {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.state.blocks[ref]
	if b == nil {
		return nil
	}
	now := time.Now().UTC().Truncate(time.Second)
	var claims []ipam.Claim
	for _, r := range a.state.records {
		for _, p := range r.Places {
			if p.InBlock && p.Claim == nil && p.Space == ref.Space && ref.Prefix.Contains(p.Addr) {
				claims = append(claims, ipam.Claim{
					Ref: p.ref(), State: ipam.Bound, Node: a.state.node, Owner: r.Owner, Keep: r.Keep, Pool: p.Answer.Range.Pool, Since: r.Since,
				})
			}
		}
	}
	for addr, last := range b.last {
		at := ipam.ClaimRef{Space: ref.Space, Addr: addr}
		if b.block.Cooling(addr, ticks(a.now())) && a.state.cooling[at] == nil {
			claims = append(claims, ipam.Claim{Ref: at, State: ipam.Cooling, Node: a.state.node, Owner: last.Owner, Since: now})
		}
	}
	return claims
}

// claimFor makes one such claim and logs it. One that exists is an earlier
// try's, and is touched.
func (a *Agent) claimFor(ctx context.Context, c ipam.Claim) error {
	made, err := a.opts.Store.CreateClaim(ctx, c)
	if errors.Is(err, ipam.ErrExists) {
		made, err = a.opts.Store.GetClaim(ctx, c.Ref)
		switch {
		case err == nil && c.State == ipam.Cooling:
			return nil // it cools there already
		case err == nil && (made.State == ipam.Cooling || a.isLeftover(made)):
			// Of one that had the address before, here or on a dead node that
			// had half shared the block. In a leased block nobody else takes it.
			c.Version = made.Version
			made, err = a.opts.Store.UpdateClaim(ctx, c)
		case err == nil && (made.Owner.Key != c.Owner.Key || !made.Node.Same(c.Node)):
			a.opts.Alarm(Alarm{Owner: c.Owner, Reason: "DuplicateAddress", Message: fmt.Sprintf(
				"%s of space %s is used by this pod and by pod %s on node %s: delete one of them", c.Ref.Addr, c.Ref.Space, made.Owner.Pod(), made.Node.Name)})
			return fmt.Errorf("claim %s: %w", c.Ref, ipam.ErrTaken)
		case err == nil:
			c.Version = made.Version
			made, err = a.opts.Store.UpdateClaim(ctx, c)
		}
	}
	if err != nil {
		return unavailable(fmt.Errorf("claim %s: %w", c.Ref, err))
	}
	return a.noteClaim(c, made.Version)
}

// isLeftover says that a claim is of this log and no record speaks of it: it was
// made when the block was to be shared before, and its owner is released.
func (a *Agent) isLeftover(c ipam.Claim) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.state.records[c.Owner.Key]
	return c.Node.Log == a.state.node.Log && (r == nil || !r.has(c.Ref)) && !a.intended(c.Ref)
}

// noteClaim logs a claim that was made for an address of a block; the address
// may have been released meanwhile.
func (a *Agent) noteClaim(c ipam.Claim, v ipam.Version) error {
	a.mu.Lock()
	e := entry{Op: opHeld, Key: &c.Owner.Key, Claim: &c.Ref, Version: &v}
	if r := a.state.records[c.Owner.Key]; r == nil || !r.has(c.Ref) {
		// No key: an ADD with the same one may have an intent by now.
		e = entry{Op: opDrop, Key: &ipam.Key{}, Record: &record{
			Owner: c.Owner, Places: []place{{Space: c.Ref.Space, Addr: c.Ref.Addr, Claim: &v}},
		}}
	}
	return a.writeUnlock(e)
}

func (r *record) has(ref ipam.ClaimRef) bool {
	for _, p := range r.Places {
		if p.ref() == ref {
			return true
		}
	}
	return false
}

// reread looks what became of a block that changed without us: the log
// follows.
func (a *Agent) reread(ctx context.Context, ref ipam.BlockRef) error {
	b, err := a.opts.Store.GetBlock(ctx, ref)
	switch {
	case errors.Is(err, ipam.ErrNotFound):
		a.forgetSight(ref.Space, ref.Prefix)
		return a.lostBlock(ctx, ref, ipam.Block{})
	case err != nil:
		return unavailable(fmt.Errorf("block %s: %w", ref, err))
	case b.Mode == ipam.Leased && b.Owner.Same(a.Node()):
		a.mu.Lock()
		defer a.mu.Unlock()
		if own := a.state.blocks[ref]; own != nil {
			own.version = b.Version
		}
		return nil
	}
	a.see(ref.Space, ref.Prefix, sightOf(b))
	return a.lostBlock(ctx, ref, b)
}
