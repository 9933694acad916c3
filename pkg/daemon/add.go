package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/failpoint"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/netns"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

// handleAdd runs an ADD, replies, and undoes it when nobody took the reply.
func (d *Daemon) handleAdd(ctx context.Context, r *request, reply func(*wire.Reply) error) error {
	ctx, cancel := context.WithTimeout(ctx, config.AddBudget-config.UndoBudget)
	defer cancel()
	start := time.Now()
	leave, err := d.order.enter(ctx, r.ContainerID)
	if err != nil {
		return errors.Join(err, reply(failure(r, err)))
	}
	defer leave()
	r.since("turn", start)
	set, fresh, err := d.add(ctx, r)
	if err != nil {
		d.reportFailure(r, err)
		return errors.Join(err, reply(failure(r, err)))
	}
	state := set.State()
	answer, err := addReply(r.conf.CNIVersion, state.Attachments)
	if err == nil {
		d.publishBefore(ctx, r, &state)
		failpoint.Hit("daemon.reply.before")
		err = reply(answer)
		failpoint.Hit("daemon.reply.after")
	} else {
		_ = reply(failure(r, err))
	}
	if err != nil && fresh {
		return d.takeBack(ctx, set, r, err)
	}
	if err == nil && fresh {
		d.publishAfter(r, &state)
	}
	return err
}

// takeBack removes an attachment set whose result reached nobody.
func (d *Daemon) takeBack(ctx context.Context, set *journal.Set, r *request, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), config.UndoBudget)
	defer cancel()
	d.forget(set)
	return errors.Join(cause, d.chain.Del(ctx, d.opts.Journal, set, "undo: "+cause.Error(), d.trip(r)))
}

// add attaches the pod's networks and returns the committed set; fresh is
// false when an earlier ADD of the same sandbox had done it.
func (d *Daemon) add(ctx context.Context, r *request) (set *journal.Set, fresh bool, err error) {
	id, taken, err := sandbox(r.Netns)
	if err != nil {
		return nil, false, err
	}
	if set, err := d.former(ctx, r, id); set != nil || err != nil {
		return set, false, err
	}
	if d.graves.holds(r.key, id) {
		return nil, false, invalid(wire.CodeUnknownContainer, errors.New("this sandbox has just been deleted: a late ADD is refused"))
	}
	plan, err := d.plan(ctx, r)
	if err != nil {
		return nil, false, err
	}
	if err := refuseTaken(plan, taken); err != nil {
		return nil, false, err
	}
	set, err = d.walk(ctx, r, plan, id)
	return set, true, err
}

// walk runs the plan in the lane of ADDs.
func (d *Daemon) walk(ctx context.Context, r *request, plan *attach.Plan, id journal.Namespace) (*journal.Set, error) {
	start := time.Now()
	leave, err := d.adds.enter(ctx, plan)
	if err != nil {
		return nil, err
	}
	defer leave()
	r.since("queue", start)
	// The wait may have been long enough for the path to lead elsewhere.
	if now, _, err := sandbox(r.Netns); err != nil || now != id {
		return nil, invalid(wire.CodeUnknownContainer, errors.Join(errors.New("the sandbox went while its ADD was waiting"), err))
	}
	start = time.Now()
	d.graves.open(r.key)
	set, err := d.opts.Journal.Begin(plan, id)
	if err != nil {
		return nil, err
	}
	r.since("journal", start)
	_, err = d.chain.Add(ctx, d.opts.Journal, set, d.trip(r))
	return set, err
}

// sandbox identifies the network namespace and lists its interfaces.
func sandbox(path string) (journal.Namespace, []string, error) {
	h, err := netns.Open(path)
	if err != nil {
		return journal.Namespace{}, nil, invalid(namespaceCode(err), err)
	}
	taken, err := h.Interfaces()
	id := h.ID()
	return journal.Namespace{Dev: id.Dev, Inode: id.Inode}, taken, errors.Join(err, h.Close())
}

func namespaceCode(err error) uint {
	if errors.Is(err, netns.ErrGone) {
		return wire.CodeUnknownContainer
	}
	return wire.CodeInvalidEnvironment
}

// former deals with a set of the same key: the same ADD again gets the same
// result, the rest of an earlier life is removed first.
func (d *Daemon) former(ctx context.Context, r *request, id journal.Namespace) (*journal.Set, error) {
	set, ok := d.opts.Journal.Get(r.key)
	if !ok {
		return nil, nil //nolint:nilnil // no former set is no error
	}
	state := set.State()
	same := state.NetnsDev == id.Dev && state.NetnsInode == id.Inode && state.BootID == d.opts.Journal.BootID()
	if state.Phase == journal.Committed && same && !state.Recovered {
		d.opts.Log.Info("ADD was asked again for an attachment set that stands", "set", r.key.String())
		return set, nil
	}
	if err := d.chain.Del(ctx, d.opts.Journal, set, "a new ADD of the same sandbox", d.trip(r)); err != nil {
		return nil, invalid(wire.CodeTryAgainLater, fmt.Errorf("what an earlier ADD left can't be removed yet: %w", err))
	}
	return nil, nil //nolint:nilnil // as above
}

// refuseTaken refuses an interface name that exists in the sandbox
// (specification 1.1.0, section 2, ADD), before anything is touched.
func refuseTaken(plan *attach.Plan, taken []string) error {
	for _, delegate := range plan.Delegates {
		if slices.Contains(taken, delegate.IfName) {
			return invalid(wire.CodeInvalidEnvironment,
				fmt.Errorf("network %s: interface %q exists in the sandbox already: give the network another `interface`", delegate.Network, delegate.IfName))
		}
	}
	return nil
}
