package chain

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/failpoint"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

// Add runs the plan of a set that was just begun and commits it. On an error
// everything is undone and the set is gone; if the undo failed too, the set
// stays in the journal, being removed.
func (c *Chain) Add(ctx context.Context, j *journal.Journal, set *journal.Set, t Trip) ([]attach.Attachment, error) {
	attachments, err := c.addAll(ctx, set, t)
	if err == nil {
		err = set.Commit(attachments)
	}
	if err == nil {
		c.keep(set, set.Release())
		return attachments, nil
	}
	return nil, c.undo(ctx, j, set, t, err)
}

// undo removes what a failed ADD left, in time of its own, and returns the
// cause of the failure.
func (c *Chain) undo(ctx context.Context, j *journal.Journal, set *journal.Set, t Trip, cause error) error {
	start := time.Now()
	failpoint.Hit("chain.undo.before")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.opts.UndoBudget)
	defer cancel()
	if err := c.Del(ctx, j, set, "undo: "+cause.Error(), t); err != nil {
		c.opts.Log.Error("undo of a failed ADD is not complete and will be tried again",
			"set", set.Key().String(), "cause", cause.Error(), "error", err.Error())
	}
	t.note("undo", start)
	return cause
}

func (c *Chain) addAll(ctx context.Context, set *journal.Set, t Trip) ([]attach.Attachment, error) {
	state := set.State()
	defer c.running(ctx, set)()
	attachments := make([]attach.Attachment, 0, len(state.Plan.Delegates))
	for i, d := range state.Plan.Delegates {
		if err := ctx.Err(); err != nil {
			return nil, networkError(d, context.Cause(ctx))
		}
		a, err := c.addOne(ctx, set, &state, i, t)
		if err != nil {
			return nil, networkError(d, err)
		}
		attachments = append(attachments, a)
	}
	if len(state.Plan.DefaultRoutes) == 0 {
		return attachments, nil
	}
	start := time.Now()
	defer t.note("routes", start)
	if err := c.moveDefaults(ctx, set, &state, attachments); err != nil {
		return nil, fmt.Errorf("default-route: %w", err)
	}
	return attachments, nil
}

func (c *Chain) addOne(ctx context.Context, set *journal.Set, state *journal.State, i int, t Trip) (attach.Attachment, error) {
	defer t.note(state.Plan.Delegates[i].IfName, time.Now())
	ctx, cancel := c.limit(ctx)
	defer cancel()
	call := c.call(state, i, t)
	call.Started = func(p *journal.Process) error { return set.Process(i, p) }
	failpoint.Hit("chain.add.before")
	result, err := c.opts.Runner.Add(ctx, call)
	if err != nil {
		return attach.Attachment{}, explain(ctx, err)
	}
	failpoint.Hit("chain.add.after")
	return attach.Attachment{Delegate: i, Result: result}, set.Added(i, result)
}

// explain prefers why a context ended to the bare fact that it did.
func explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}
