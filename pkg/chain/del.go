package chain

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meta-cni/meta-cni/pkg/delegate/exec"
	"github.com/meta-cni/meta-cni/pkg/failpoint"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

// Del removes a set: leftover processes first, then the moved default route,
// then every delegate in reverse, then the file. It may be called again after
// an error; only what failed is asked again.
func (c *Chain) Del(ctx context.Context, j *journal.Journal, set *journal.Set, reason string, t Trip) error {
	if err := c.del(ctx, j, set, reason, t); err != nil {
		return errors.Join(err, set.Release())
	}
	failpoint.Hit("chain.del.done")
	return set.Remove()
}

func (c *Chain) del(ctx context.Context, j *journal.Journal, set *journal.Set, reason string, t Trip) error {
	state := set.State()
	if err := c.endLeftovers(ctx, &state, j.BootID()); err != nil {
		return err
	}
	defer c.running(ctx, set)()
	if state.Phase != journal.Deleting {
		c.keep(set, set.Delete(reason))
	}
	path, err := sandboxNetns(&state, j.BootID())
	if err != nil {
		return err
	}
	c.restoreDefaults(ctx, set, &state, path)
	return c.delAll(ctx, set, &state, path, t)
}

// endLeftovers ends what a former daemon left running of an ADD or a DEL. What
// this one started is gone already, which costs one system call each to see. No
// process survives a reboot, and its numbers mean another one then.
//
// One that the kernel doesn't let go isn't waited for longer than exec.EndRoom:
// with SIGKILL pending it takes no further step of its own.
func (c *Chain) endLeftovers(ctx context.Context, state *journal.State, bootID string) error {
	if state.BootID != bootID {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, exec.EndRoom)
	defer cancel()
	for _, step := range state.Steps {
		for _, p := range step.Processes {
			err := exec.EndLeftover(limited, state.Plan.Key.ContainerID, p)
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				c.opts.Log.Error("a delegate was killed and is still there", "set", state.Plan.Key.String(), "error", err.Error())
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Chain) delAll(ctx context.Context, set *journal.Set, state *journal.State, path string, t Trip) error {
	var first error
	pending := state.Pending()
	for n, i := range pending {
		if ctx.Err() != nil {
			if first == nil {
				first = fmt.Errorf("%d delegates were not asked: %w", len(pending)-n, context.Cause(ctx))
			}
			break
		}
		err := c.delShare(ctx, len(pending)-n, func(ctx context.Context) error {
			return c.delOne(ctx, set, state, i, path, t)
		})
		if err == nil {
			continue
		}
		// The caller that left, or the daemon that stops, is not a failure of the
		// delegate, which would be given up some day for it.
		if !errors.Is(ctx.Err(), context.Canceled) {
			c.keep(set, set.Failed(i, err))
		}
		err = networkError(state.Plan.Delegates[i], err)
		if first == nil {
			first = err
			continue
		}
		c.opts.Log.Error("a further delegate failed to DEL", "set", set.Key().String(), "error", err.Error())
	}
	if first != nil {
		return fmt.Errorf("%w (kept in the journal, it will be tried again)", first)
	}
	return nil
}

// delShare gives a delegate its share of the time that is left, so that one
// that hangs leaves enough for the primary's DEL, which comes last.
func (c *Chain) delShare(ctx context.Context, left int, del func(context.Context) error) error {
	limit := c.opts.DelegateTimeout + exec.EndRoom
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/time.Duration(left))
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return del(ctx)
}

func (c *Chain) delOne(ctx context.Context, set *journal.Set, state *journal.State, i int, path string, t Trip) error {
	defer t.note("del "+state.Plan.Delegates[i].IfName, time.Now())
	call := c.call(state, i, t)
	call.Netns, call.Previous, call.FurtherPath = path, previous(state, i), t.Path
	call.Started = c.delStarted(set, i)
	failpoint.Hit("chain.del.before")
	if err := c.opts.Runner.Del(ctx, call); err != nil {
		return explain(ctx, err)
	}
	failpoint.Hit("chain.del.after")
	c.keep(set, set.Deleted(i))
	return nil
}

// maxProcesses bounds the records of a DEL that is tried for ever. What isn't
// in the journal ends by the kernel when the daemon is killed, but for its
// children.
const maxProcesses = 32

// delStarted records a process of a DEL. A journal that can't be written is no
// reason not to remove something.
func (c *Chain) delStarted(set *journal.Set, i int) func(*journal.Process) error {
	return func(p *journal.Process) error {
		if state := set.State(); len(state.Steps[i].Processes) < maxProcesses {
			c.keep(set, set.Process(i, p))
		}
		return nil
	}
}

// keep logs that a record couldn't be written or a file not be closed: the
// rest goes on, since without the record a DEL would only be repeated.
func (c *Chain) keep(set *journal.Set, err error) {
	if err != nil {
		c.opts.Log.Error("journal: a step was not recorded", "set", set.Key().String(), "error", err.Error())
	}
}
