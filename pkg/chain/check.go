package chain

import (
	"context"
	"fmt"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/journal"
)

// Check asks every delegate of a committed set, in the order of ADD, and
// returns the first error.
func (c *Chain) Check(ctx context.Context, set *journal.Set, t Trip) error {
	state := set.State()
	if err := standing(&state); err != nil {
		return err
	}
	for i, d := range state.Plan.Delegates {
		if err := c.checkOne(ctx, &state, i, t); err != nil {
			return networkError(d, err)
		}
	}
	return checkDefaults(ctx, &state)
}

// standing refuses a namespace that isn't the set's own. Of a recovered set
// nobody knows which one that was.
func standing(s *journal.State) error {
	if s.NetnsInode == 0 {
		return nil
	}
	path, err := sandboxNetns(s, s.BootID)
	if err != nil {
		return err
	}
	if path == "" {
		return types.NewError(types.ErrUnknownContainer,
			fmt.Sprintf("the network namespace %s is gone or another one than at the time of ADD", s.Plan.Netns), "")
	}
	return nil
}

func (c *Chain) checkOne(ctx context.Context, state *journal.State, i int, t Trip) error {
	defer t.note("check "+state.Plan.Delegates[i].IfName, time.Now())
	ctx, cancel := c.limit(ctx)
	defer cancel()
	call := c.call(state, i, t)
	call.Previous, call.FurtherPath = previous(state, i), t.Path
	if err := c.opts.Runner.Check(ctx, call); err != nil {
		return explain(ctx, err)
	}
	return nil
}
