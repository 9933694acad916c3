package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// Scan holds the log against the objects of this node: blocks of an earlier
// boot are taken back, blocks and claims that a lost reply left are used or
// given up, imported claims are adopted, and what the log has without an object
// is protected again. What an object says is not trusted beyond its version.
func (a *Agent) Scan(ctx context.Context) error {
	a.mu.Lock()
	a.scan = false
	a.mu.Unlock()
	node := a.Node()
	blocks, err := a.opts.Store.NodeBlocks(ctx, node.Name)
	if err != nil {
		return fmt.Errorf("blocks of this node: %w", err)
	}
	claims, err := a.opts.Store.NodeClaims(ctx, node.Name)
	if err != nil {
		return fmt.Errorf("claims of this node: %w", err)
	}
	return errors.Join(a.scanSpaces(ctx), a.scanBlocks(ctx, node, blocks), a.scanClaims(ctx, node, claims))
}

// Revalidate asks whether what this node leases is still its own, as Scan does:
// a node that was deleted from the cluster may have lost it. When it is nil,
// nothing more is given out of a block that another has.
func (a *Agent) Revalidate(ctx context.Context) error {
	node := a.Node()
	blocks, err := a.opts.Store.NodeBlocks(ctx, node.Name)
	if err != nil {
		return unavailable(fmt.Errorf("blocks of this node: %w", err))
	}
	if err := a.scanBlocks(ctx, node, blocks); errors.Is(err, ipam.ErrNotReady) {
		return err
	}
	return nil // what else is wrong is the next Scan's
}

// scanSpaces reads the settings of the spaces again. The grid of a space never
// changes; one that was deleted and made anew with another grid gives the same
// names to other addresses, so nothing more is given of it here.
func (a *Agent) scanSpaces(ctx context.Context) error {
	a.mu.Lock()
	known := maps.Clone(a.state.spaces)
	a.mu.Unlock()
	var errs []error
	for name, before := range known {
		now, err := a.opts.Store.Space(ctx, before)
		var refused error
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("address space %s: %w", name, err))
			continue
		case now.Grid != before.Grid:
			refused = fmt.Errorf("%w: address space %s was made anew with another grid (%+v) than this node has blocks of (%+v): drain this node, or make the space as it was",
				ipam.ErrNotReady, name, now.Grid, before.Grid)
			a.opts.Alarm(Alarm{Reason: "AddressSpaceChanged", Message: refused.Error()})
		case settings(now) != settings(before):
			errs = append(errs, a.write(entry{Op: opSpace, Space: &now}))
		}
		a.mu.Lock()
		a.refused[name] = refused
		a.mu.Unlock()
	}
	return errors.Join(errs...)
}

// settings is a space without its version.
func settings(sp ipam.Space) ipam.Space {
	sp.Version = ipam.Version{}
	return sp
}

// spaceOf is the space of a block that was found, as the store has it.
func (a *Agent) spaceOf(ctx context.Context, ref ipam.BlockRef) error {
	grid := iprange.DefaultGrid()
	if ref.Prefix.Addr().Is4() {
		grid.V4 = ref.Prefix.Bits()
	} else if ref.Prefix.IsValid() {
		grid.V6 = ref.Prefix.Bits()
	}
	_, err := a.space(ctx, ipam.Space{Name: ref.Space, Grid: grid, Mode: ipam.Auto})
	return err
}

// origin says whose an object of this node's name is.
type origin int

const (
	present  origin = iota // this life's
	former                 // of an earlier boot: its sandboxes are gone
	foreign                // of another machine that had the name: the controller's
	frozen                 // of this boot, but of a log that is lost: sandboxes may live
	imported               // taken over from elsewhere, not yet ours
)

func (a *Agent) origin(node, of ipam.Node) origin {
	switch {
	case of.Same(node):
		return present
	case of.Log == "":
		return imported
	case of.Boot == node.Boot:
		return frozen
	case of.Log == node.Log, of.UID == node.UID:
		return former
	}
	return foreign
}

func (a *Agent) scanBlocks(ctx context.Context, node ipam.Node, blocks []ipam.Block) error {
	var errs []error
	listed := map[ipam.BlockRef]bool{}
	for _, b := range blocks {
		listed[b.Ref] = true
		if b.Mode != ipam.Leased {
			continue
		}
		errs = append(errs, a.scanBlock(ctx, node, b))
	}
	for _, ref := range a.unlisted(listed) {
		errs = append(errs, a.scanUnlisted(ctx, ref))
	}
	return errors.Join(errs...)
}

// scanUnlisted rereads a block while nobody here takes it, shares it or gives it
// back, so that the log follows nothing that is over.
func (a *Agent) scanUnlisted(ctx context.Context, ref ipam.BlockRef) error {
	release, err := take(ctx, a.hints(ref.Space).leasing, "a block of the space is being leased or shared")
	if err != nil {
		return err
	}
	defer release()
	return a.reread(ctx, ref)
}

func (a *Agent) scanBlock(ctx context.Context, node ipam.Node, b ipam.Block) error {
	a.mu.Lock()
	own := a.state.blocks[b.Ref]
	known := own != nil && own.stage != stageFormer
	a.mu.Unlock()
	switch a.origin(node, b.Owner) {
	case present:
		if known && b.Owner.UID == node.UID {
			return nil
		}
	case former:
	case frozen:
		a.opts.Log.Warn("a block of this node is left alone until the next boot: it was leased by a log that is lost, and sandboxes may live in it",
			"block", b.Ref.String())
		return nil
	default:
		return nil
	}
	return a.takeBack(ctx, b)
}

// takeBack makes a block of this node that of this life; by an update, so that
// no write that is still on its way can hit it.
func (a *Agent) takeBack(ctx context.Context, b ipam.Block) error {
	release, err := take(ctx, a.hints(b.Ref.Space).leasing, "a block of the space is being leased or shared")
	if err != nil {
		return err
	}
	defer release()
	if err := a.spaceOf(ctx, b.Ref); err != nil {
		return err
	}
	a.mu.Lock()
	own, grid := a.state.blocks[b.Ref], a.state.spaces[b.Ref.Space].Grid
	returning := own != nil && own.stage == stageReturning
	a.mu.Unlock()
	switch {
	case returning:
		return nil // Resume or GiveBack has it
	case grid.Block(b.Ref.Prefix.Addr()) != b.Ref.Prefix:
		a.opts.Log.Warn("a block of this node is left alone: the grid of its space has no such block, so the agent didn't make it", "block", b.Ref.String())
		return nil
	}
	b.Owner = a.Node()
	made, err := a.opts.Store.UpdateBlock(ctx, b)
	if errors.Is(err, ipam.ErrStale) || errors.Is(err, ipam.ErrNotFound) {
		return a.reread(ctx, b.Ref) // the list was old
	}
	if err != nil {
		return unavailable(fmt.Errorf("take block %s back: %w", b.Ref, err))
	}
	return a.write(entry{Op: opReady, Block: &b.Ref, Version: &made.Version, Suspect: b.Suspect})
}

// unlisted are the blocks that the log has and the store's list doesn't.
func (a *Agent) unlisted(listed map[ipam.BlockRef]bool) []ipam.BlockRef {
	a.mu.Lock()
	defer a.mu.Unlock()
	var refs []ipam.BlockRef
	for ref := range a.state.blocks {
		if !listed[ref] {
			refs = append(refs, ref)
		}
	}
	return refs
}

func (a *Agent) scanClaims(ctx context.Context, node ipam.Node, claims []ipam.Claim) error {
	var errs []error
	listed := map[ipam.ClaimRef]bool{}
	for _, c := range claims {
		listed[c.Ref] = true
		if c.State == ipam.Kept {
			continue
		}
		switch a.origin(node, c.Node) {
		case present, former:
			errs = append(errs, a.scanClaim(ctx, node, c))
		case imported:
			errs = append(errs, a.adopt(ctx, c))
		}
	}
	errs = append(errs, a.protectClaims(ctx, listed))
	return errors.Join(errs...)
}

// scanClaim lists a claim that no record speaks of among those to give up, and
// writes a new UID of the Node object into one that is in use.
func (a *Agent) scanClaim(ctx context.Context, node ipam.Node, c ipam.Claim) error {
	a.mu.Lock()
	r := a.state.records[c.Owner.Key]
	inUse := r != nil && r.has(c.Ref) && c.Node.Boot == node.Boot
	busy := a.turns[c.Owner.Key] != nil || a.intended(c.Ref)
	listed := a.state.cooling[c.Ref] != nil
	switch {
	case busy || listed || inUse && c.Node.UID == node.UID:
		a.mu.Unlock()
		return nil
	case inUse:
		a.mu.Unlock()
		return a.rename(ctx, node, c)
	}
	return a.writeUnlock(entry{Op: opDrop, Key: &c.Owner.Key, Record: &record{
		Owner: c.Owner, Keep: c.Keep, Orphan: true, Places: []place{{Space: c.Ref.Space, Addr: c.Ref.Addr, Claim: &c.Version}},
	}})
}

// intended says that a claim of the address may be under way; under the
// agent's lock.
func (a *Agent) intended(ref ipam.ClaimRef) bool {
	for _, r := range a.state.intents {
		if r.has(ref) {
			return true
		}
	}
	return false
}

// rename writes this life of the node into a claim in use.
func (a *Agent) rename(ctx context.Context, node ipam.Node, c ipam.Claim) error {
	c.Node = node
	made, err := a.opts.Store.UpdateClaim(ctx, c)
	if errors.Is(err, ipam.ErrStale) || errors.Is(err, ipam.ErrNotFound) {
		return nil // the next scan sees it
	}
	if err != nil {
		return unavailable(fmt.Errorf("claim %s: %w", c.Ref, err))
	}
	return a.write(entry{Op: opHeld, Key: &c.Owner.Key, Claim: &c.Ref, Version: &made.Version})
}

// lostBlock is about a block that the log calls ours and the store doesn't. An
// empty one is forgotten. One that is in use is leased again; where another has
// it by now, each address gets a claim of its own, or an alarm.
func (a *Agent) lostBlock(ctx context.Context, ref ipam.BlockRef, now ipam.Block) error {
	a.mu.Lock()
	switch b := a.state.blocks[ref]; {
	case b == nil:
		a.mu.Unlock()
		return nil
	case b.block.IsEmpty():
		return a.writeUnlock(entry{Op: opGone, Block: &ref}) // a reservation moves on
	}
	a.mu.Unlock()
	if now.Mode == "" {
		made, err := a.opts.Store.CreateBlock(ctx, ipam.Block{Ref: ref, Mode: ipam.Leased, Owner: a.Node()})
		if err == nil {
			a.opts.Log.Error("a block in use had vanished from the store and was leased again", "block", ref.String())
			return a.write(entry{Op: opReady, Block: &ref, Version: &made.Version})
		}
		return unavailable(fmt.Errorf("block %s vanished while in use and can't be leased again: %w", ref, err))
	}
	if err := a.write(entry{Op: opReturning, Block: &ref}); err != nil {
		return err
	}
	if now.Mode == ipam.Shared {
		if err := a.claimAssigned(ctx, ref); err != nil {
			return err
		}
		return a.write(entry{Op: opGone, Block: &ref})
	}
	for _, c := range a.unclaimed(ref) {
		a.opts.Alarm(Alarm{Owner: c.Owner, Reason: "UnprotectedAddress", Message: fmt.Sprintf(
			"block %s with %s of this pod was given to node %s: delete the pod", ref, c.Ref.Addr, now.Owner.Name)})
	}
	return a.opts.Store.Ask(ctx, now.Owner.Name, ref)
}

// protectClaims makes claims again that the log has and the store doesn't.
func (a *Agent) protectClaims(ctx context.Context, listed map[ipam.ClaimRef]bool) error {
	a.mu.Lock()
	var missing []ipam.Claim
	for ref, key := range a.state.owners {
		r := a.state.records[key]
		if !listed[ref] && r != nil && r.Keep.Kind != ipam.KeepClaim {
			missing = append(missing, ipam.Claim{Ref: ref, State: ipam.Bound, Node: a.state.node, Owner: r.Owner, Keep: r.Keep, Since: r.Since})
		}
	}
	a.mu.Unlock()
	var errs []error
	for _, c := range missing {
		errs = append(errs, a.protectClaim(ctx, c))
	}
	return errors.Join(errs...)
}

// protectClaim makes the claim again that an address in use needs; the one that
// another has by now is an alarm.
func (a *Agent) protectClaim(ctx context.Context, c ipam.Claim) error {
	found, err := a.opts.Store.GetClaim(ctx, c.Ref)
	switch {
	case err == nil && found.Owner.Key == c.Owner.Key && found.Node.Same(c.Node) && found.State == ipam.Bound:
		return nil // the list was old
	case err != nil && !errors.Is(err, ipam.ErrNotFound):
		return fmt.Errorf("claim %s: %w", c.Ref, err)
	}
	a.mu.Lock()
	released := a.state.owners[c.Ref] != c.Owner.Key
	a.mu.Unlock()
	if released {
		return nil
	}
	a.opts.Log.Error("the claim of an address in use is gone from the store or another's, and is made again", "claim", c.Ref.String(), "pod", c.Owner.Pod())
	return a.claimFor(ctx, c)
}
