package chain

import (
	"context"
	"time"

	"github.com/meta-cni/meta-cni/pkg/journal"
)

// Check asks every delegate of a committed set, in the order of ADD, and
// returns the first error.
func (c *Chain) Check(ctx context.Context, set *journal.Set, t Trip) error {
	state := set.State()
	for i, d := range state.Plan.Delegates {
		if err := c.checkOne(ctx, &state, i, t); err != nil {
			return networkError(d, err)
		}
	}
	return checkDefaults(ctx, &state)
}

func (c *Chain) checkOne(ctx context.Context, state *journal.State, i int, t Trip) error {
	defer t.note("check "+state.Plan.Delegates[i].IfName, time.Now())
	ctx, cancel := c.limit(ctx)
	defer cancel()
	call := c.call(state, i, t)
	call.Previous = previous(state, i)
	if err := c.opts.Runner.Check(ctx, call); err != nil {
		return explain(ctx, err)
	}
	return nil
}
