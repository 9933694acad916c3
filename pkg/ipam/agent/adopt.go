package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// adopt takes over a claim that was imported for a sandbox of this node. Its
// record comes first: unlike an ADD that was never answered, the sandbox lives
// and has the address, so what becomes of the update must not matter.
func (a *Agent) adopt(ctx context.Context, c ipam.Claim) error {
	leave, err := a.enter(ctx, c.Owner.Key)
	if err != nil {
		return err
	}
	defer leave()
	if err := a.spaceOf(ctx, ipam.BlockRef{Space: c.Ref.Space}); err != nil {
		return err
	}
	// The list may be old: the sandbox may have come and gone since.
	found, err := a.opts.Store.GetClaim(ctx, c.Ref)
	switch {
	case errors.Is(err, ipam.ErrNotFound):
		return nil
	case err != nil:
		return unavailable(fmt.Errorf("adopt claim %s: %w", c.Ref, err))
	case found.Node.Log != "" || found.Owner.Key != c.Owner.Key:
		return nil
	}
	c = found
	if known, err := a.noteImported(c); !known || err != nil {
		return err
	}
	c.Node = a.Node()
	made, err := a.opts.Store.UpdateClaim(ctx, c)
	switch {
	case errors.Is(err, ipam.ErrStale) || errors.Is(err, ipam.ErrNotFound):
		return nil // the next scan sees it
	case errors.Is(err, ipam.ErrTaken):
		a.opts.Alarm(Alarm{Owner: c.Owner, Reason: "DuplicateAddress", Message: fmt.Sprintf(
			"%s of space %s was imported for this pod, but Whereabouts has given it to another: delete one of them (%v)", c.Ref.Addr, c.Ref.Space, err)})
		return nil
	case err != nil:
		a.wantScan()
		return unavailable(fmt.Errorf("adopt claim %s: %w", c.Ref, err))
	}
	return a.write(entry{Op: opHeld, Key: &c.Owner.Key, Claim: &c.Ref, Version: &made.Version})
}

// noteImported has an imported claim in its owner's record; false if it was
// released here already.
func (a *Agent) noteImported(c ipam.Claim) (bool, error) {
	a.mu.Lock()
	whole := record{Owner: c.Owner, Keep: c.Keep, Since: c.Since}
	if before := a.state.records[c.Owner.Key]; before != nil {
		whole.Places = slices.Clone(before.Places)
	}
	released, known := a.state.cooling[c.Ref] != nil, whole.has(c.Ref)
	if released || known {
		a.mu.Unlock()
		return known, nil
	}
	whole.Places = append(whole.Places, place{
		Space: c.Ref.Space, Addr: c.Ref.Addr, Claim: &c.Version, Want: len(whole.Places),
		Answer: answer(c.Ref.Addr, ipam.Range{Space: ipam.Space{Name: c.Ref.Space}, Pool: c.Pool}),
	})
	return true, a.writeUnlock(entry{Op: opGrant, Record: &whole})
}
