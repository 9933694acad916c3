package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// Cool gives up the claims of released addresses: first each says Cooling, so
// that another may take it where nothing else is free, or Kept if somebody
// keeps it; in the end a Cooling one is deleted. Both go by the version that we
// know, and only while no record speaks of the claim.
func (a *Agent) Cool(ctx context.Context) error {
	a.mu.Lock()
	var due []ipam.ClaimRef
	for ref, c := range a.state.cooling {
		if !c.told || c.due <= a.now() {
			due = append(due, ref)
		}
	}
	a.mu.Unlock()
	var errs []error
	for _, ref := range due {
		if ctx.Err() != nil {
			break
		}
		errs = append(errs, a.coolOne(ctx, ref))
	}
	return errors.Join(errs...)
}

// tellAll says of claims in a range that were released just now that they cool;
// the answer is whether there were any. Who can't be told now is told later.
func (a *Agent) tellAll(ctx context.Context, space string, within iprange.Set) bool {
	a.mu.Lock()
	var fresh []ipam.ClaimRef
	for ref, c := range a.state.cooling {
		if !c.told && ref.Space == space && within.Contains(ref.Addr) {
			fresh = append(fresh, ref)
		}
	}
	a.mu.Unlock()
	for _, ref := range fresh {
		if err := a.coolOne(ctx, ref); err != nil {
			a.opts.Log.Debug("a claim doesn't say yet that it cools", "claim", ref.String(), "error", err.Error())
		}
	}
	return len(fresh) > 0
}

// coolOne takes the next step with one claim.
func (a *Agent) coolOne(ctx context.Context, ref ipam.ClaimRef) error {
	now, ok := a.released(ref)
	if !ok {
		return nil
	}
	expired := now.due <= a.now()
	if now.last != nil && !expired && a.opts.Alive(now.last.Owner, now.last.Netns) {
		return nil // its interface may still have the address
	}
	if !now.keep.IsZero() || !expired && !now.told {
		return a.tell(ctx, ref, now)
	}
	if !expired {
		return nil
	}
	err := a.opts.Store.DeleteClaim(ctx, ref, now.version)
	if errors.Is(err, ipam.ErrStale) { // after a restart, the version of our last word is not known
		if err := a.recool(ctx, ref, now); err != nil {
			return err
		}
		if now, ok = a.released(ref); !ok || !now.told || now.due > a.now() {
			return nil
		}
		err = a.opts.Store.DeleteClaim(ctx, ref, now.version)
	}
	if errors.Is(err, ipam.ErrStale) {
		return nil // looked at again next time
	}
	if err != nil && !errors.Is(err, ipam.ErrNotFound) {
		return fmt.Errorf("delete claim %s: %w", ref, err)
	}
	return a.left(ref, now)
}

// released is what is known of a claim to give up; false if there is none or if
// an ADD has, or is about to have, the address again.
func (a *Agent) released(ref ipam.ClaimRef) (cooling, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.state.cooling[ref]
	if c == nil || a.state.owners[ref] != (ipam.Key{}) || a.intended(ref) {
		return cooling{}, false
	}
	return *c, true
}

// tell writes Cooling or Kept into the claim.
func (a *Agent) tell(ctx context.Context, ref ipam.ClaimRef, now cooling) error {
	c, err := a.opts.Store.GetClaim(ctx, ref)
	switch {
	case errors.Is(err, ipam.ErrNotFound):
		return a.left(ref, now)
	case err != nil:
		return fmt.Errorf("claim %s: %w", ref, err)
	case !a.isOurs(c, now):
		return a.left(ref, now)
	}
	// An ADD with the same key may have got the claim before it was read; one
	// that begins from here on touches it, and this write is refused.
	if own, ok := a.released(ref); !ok || own.owner != now.owner {
		return nil
	}
	if c.State == ipam.Cooling && now.keep.IsZero() {
		a.told(ref, now, c.Version) // another write would only refuse who takes it over
		return nil
	}
	c.State, c.Since = ipam.Cooling, time.Now().UTC().Truncate(time.Second)
	if !now.keep.IsZero() {
		c.State = ipam.Kept
	}
	made, err := a.opts.Store.UpdateClaim(ctx, c)
	if errors.Is(err, ipam.ErrStale) || errors.Is(err, ipam.ErrNotFound) {
		return nil // looked at again next time
	}
	if err != nil {
		return fmt.Errorf("claim %s: %w", ref, err)
	}
	if c.State == ipam.Kept {
		return a.left(ref, now)
	}
	a.told(ref, now, made.Version)
	return nil
}

// told notes that a claim says Cooling, and its version.
func (a *Agent) told(ref ipam.ClaimRef, now cooling, v ipam.Version) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if own := a.state.cooling[ref]; own != nil && own.owner == now.owner {
		own.told, own.version = true, v
	}
}

// recool learns the version of a claim that changed: our own earlier write, or
// another's who took it over.
func (a *Agent) recool(ctx context.Context, ref ipam.ClaimRef, now cooling) error {
	c, err := a.opts.Store.GetClaim(ctx, ref)
	if errors.Is(err, ipam.ErrNotFound) || err == nil && !a.isOurs(c, now) {
		return a.left(ref, now)
	}
	if err != nil {
		return fmt.Errorf("claim %s: %w", ref, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if own := a.state.cooling[ref]; own != nil && own.owner == now.owner {
		own.told, own.version = c.State == ipam.Cooling, c.Version
	}
	return nil
}

// isOurs says that the claim is still that of the sandbox that was released
// here, or as the scan found it, perhaps of a log that was lost.
func (a *Agent) isOurs(c ipam.Claim, now cooling) bool {
	node := a.Node()
	return c.Owner.Key == now.owner && (c.Node.Log == node.Log || c.Version == now.version)
}

// left takes a claim off the list, unless it is on it anew.
func (a *Agent) left(ref ipam.ClaimRef, now cooling) error {
	a.mu.Lock()
	own := a.state.cooling[ref]
	if own == nil || own.owner != now.owner {
		a.mu.Unlock()
		return nil
	}
	t, err := a.order(a.log.AppendReserved, entry{Op: opLeft, Claim: &ref})
	a.mu.Unlock()
	if err != nil {
		return err
	}
	return t.Wait()
}
