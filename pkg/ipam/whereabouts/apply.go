package whereabouts

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
	"github.com/meta-cni/meta-cni/pkg/ipam"
)

const (
	// atOnce bounds the claims that are made at the same time.
	atOnce = 8
	// pollInterval is how often a leased block is looked at.
	pollInterval = time.Second
)

// Applied is what Apply did.
type Applied struct {
	// Blocks and Claims that were made; a second run makes none.
	Blocks, Claims int
	// Findings are claims that others made in the meantime.
	Findings []Finding
}

// Apply carries the plan out. Claims of blocks that are leased come last: it
// waits for their nodes to share them until ctx ends, and then names them. An
// error stops it between two steps; run Survey, Plan and Apply again then.
func Apply(ctx context.Context, store ipam.Store, p Plan) (Applied, error) {
	var done Applied
	var leased []BlockPlan
	for _, sp := range p.Spaces {
		if err := ensureSpace(ctx, store, sp.Space); err != nil {
			return done, err
		}
		for _, b := range sp.Blocks {
			shared, err := done.share(ctx, store, b)
			if err != nil {
				return done, err
			}
			if !shared {
				leased = append(leased, b)
				continue
			}
			if err := done.claims(ctx, store, b.Claims); err != nil {
				return done, err
			}
		}
	}
	for _, b := range leased {
		if err := awaitShared(ctx, store, b.Ref); err != nil {
			return done, err
		}
		if err := done.claims(ctx, store, b.Claims); err != nil {
			return done, err
		}
	}
	return done, nil
}

// ensureSpace makes the space; one that is there must have the plan's grid,
// which the blocks' names come of, and stand beside Whereabouts if asked to.
func ensureSpace(ctx context.Context, store ipam.Store, want ipam.Space) error {
	failpoint.Hit("whereabouts-space")
	have, err := store.Space(ctx, want)
	if err != nil {
		return fmt.Errorf("make address space %s: %w", want.Name, err)
	}
	if have.Grid != want.Grid {
		return fmt.Errorf("address space %s has blocks of /%d and /%d, the plan /%d and /%d: plan again with the space as it is", want.Name, have.Grid.V4, have.Grid.V6, want.Grid.V4, want.Grid.V6)
	}
	if want.Whereabouts && !have.Whereabouts {
		return fmt.Errorf("address space %s exists without whereabouts: true: set it, wait six minutes until every meta-cnid has seen it, and run this again; or stop Whereabouts and take over without it", want.Name)
	}
	return nil
}

// share makes the block Shared, or asks its node to and returns false.
func (a *Applied) share(ctx context.Context, store ipam.Store, b BlockPlan) (bool, error) {
	failpoint.Hit("whereabouts-block")
	if b.Create {
		_, err := store.CreateBlock(ctx, ipam.Block{Ref: b.Ref, Mode: ipam.Shared})
		if err == nil {
			a.Blocks++
			return true, nil
		}
		if !errors.Is(err, ipam.ErrExists) {
			return false, fmt.Errorf("make block %s: %w", b.Ref, err)
		}
	}
	block, err := store.GetBlock(ctx, b.Ref)
	if err != nil {
		return false, fmt.Errorf("read block %s: %w", b.Ref, err)
	}
	if block.Mode == ipam.Shared {
		return true, nil
	}
	if block.Owner.Name == "" {
		return a.shareOwnerless(ctx, store, block)
	}
	if err := store.Ask(ctx, block.Owner.Name, b.Ref); err != nil {
		return false, fmt.Errorf("ask node %s to share block %s: %w", block.Owner.Name, b.Ref, err)
	}
	return false, nil
}

// shareOwnerless shares a block that was taken from a dead node, unless another
// node takes it at this moment.
func (a *Applied) shareOwnerless(ctx context.Context, store ipam.Store, block ipam.Block) (bool, error) {
	block.Mode = ipam.Shared
	_, err := store.UpdateBlock(ctx, block)
	if errors.Is(err, ipam.ErrStale) || errors.Is(err, ipam.ErrNotFound) {
		return a.share(ctx, store, BlockPlan{Ref: block.Ref, Create: true})
	}
	if err != nil {
		return false, fmt.Errorf("share block %s: %w", block.Ref, err)
	}
	a.Blocks++
	return true, nil
}

func awaitShared(ctx context.Context, store ipam.Store, ref ipam.BlockRef) error {
	timer := time.NewTicker(pollInterval)
	defer timer.Stop()
	var owner string
	for {
		block, err := store.GetBlock(ctx, ref)
		switch {
		case err != nil && owner != "" && ends(ctx):
			return stillLeased(ref, owner, err) // a client's rate limit refuses what would come too late
		case err != nil:
			return fmt.Errorf("read block %s: %w", ref, err)
		case block.Mode == ipam.Shared:
			return nil
		}
		owner = orNone(block.Owner.Name)
		select {
		case <-ctx.Done():
			return stillLeased(ref, owner, ctx.Err())
		case <-timer.C:
		}
	}
}

// ends says that ctx has ended or does so before the next look.
func ends(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && time.Until(deadline) < pollInterval
}

func stillLeased(ref ipam.BlockRef, owner string, err error) error {
	return fmt.Errorf("block %s is still leased by node %s: is meta-cnid running there? Run this again: %w", ref, owner, err)
}

// claims makes the claims, or finds that they are there.
func (a *Applied) claims(ctx context.Context, store ipam.Store, claims []ipam.Claim) error {
	results := make([]error, len(claims))
	found := make([]ipam.Claim, len(claims))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, c := range claims {
		group.Go(func() error {
			found[i], results[i] = importClaim(ctx, store, c)
			if errors.Is(results[i], ipam.ErrExists) {
				return nil
			}
			return results[i]
		})
	}
	err := group.Wait()
	for i, c := range claims {
		switch {
		case results[i] == nil && found[i].Ref == c.Ref:
			a.Claims++
		case errors.Is(results[i], ipam.ErrExists) && found[i].Ref != c.Ref:
			a.Findings = append(a.Findings, Finding{FindingDuplicate, results[i].Error()})
		case errors.Is(results[i], ipam.ErrExists) && found[i].Owner.Key != c.Owner.Key:
			a.Findings = append(a.Findings, taken(c, found[i]))
		}
	}
	return err
}

// importClaim makes one claim; if the name is taken it gives the claim that is
// there, with ErrExists.
func importClaim(ctx context.Context, store ipam.Store, c ipam.Claim) (ipam.Claim, error) {
	failpoint.Hit("whereabouts-claim")
	made, err := store.CreateClaim(ctx, c)
	failpoint.Hit("whereabouts-claimed")
	if err == nil || !errors.Is(err, ipam.ErrExists) {
		return made, wrap(err, "make claim %s", c.Ref)
	}
	there, getErr := store.GetClaim(ctx, c.Ref)
	if getErr != nil && !errors.Is(getErr, ipam.ErrNotFound) {
		return ipam.Claim{}, fmt.Errorf("read claim %s: %w", c.Ref, getErr)
	}
	if getErr != nil {
		return ipam.Claim{}, fmt.Errorf("claim %s: its address is reserved by another pod: %w", c.Ref, err)
	}
	return there, err
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}
