package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/config"
	"github.com/meta-cni/meta-cni/pkg/delegate/exec"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/plan"
	"github.com/meta-cni/meta-cni/pkg/publish"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

// A DEL of a secondary network that fails holds up the runtime for at least
// this many tries and this long.
const (
	parkTries = 5
	parkTime  = time.Minute
)

// del removes the attachment set of a sandbox. It needs neither the pod nor a
// network definition.
func (d *Daemon) del(ctx context.Context, r *request) error {
	ctx, cancel := context.WithTimeout(ctx, config.DelBudget)
	defer cancel()
	start := time.Now()
	leave, err := d.order.enter(ctx, r.ContainerID)
	if err != nil {
		return err
	}
	defer leave()
	set, known := d.opts.Journal.Get(r.key)
	if known && r.spooled != nil && d.laterLife(r.spooled, set) {
		d.opts.Log.Warn("a spooled DEL was dropped: the sandbox has been added again since", "set", r.key.String())
		return nil
	}
	var plan *attach.Plan
	if known {
		state := set.State()
		plan = &state.Plan
	}
	out, err := d.dels.enter(ctx, plan)
	if err != nil {
		return err
	}
	defer out()
	r.since("queue", start)
	if !known {
		return d.delUnknown(ctx, r)
	}
	return d.delSet(ctx, r, set)
}

func (d *Daemon) delSet(ctx context.Context, r *request, set *journal.Set) error {
	state := set.State()
	r.pod = state.Plan.Pod
	for _, delegate := range state.Plan.Delegates {
		r.networks = append(r.networks, delegate.Network)
	}
	d.forget(set)
	if err := d.chain.Del(ctx, d.opts.Journal, set, "DEL", d.trip(r)); err != nil {
		return d.park(r, set, err)
	}
	d.graves.bury(r.key, journal.Namespace{Dev: state.NetnsDev, Inode: state.NetnsInode})
	return nil
}

// park decides whether a DEL that fails again and again still holds up the
// runtime. Beyond parkTries tries and parkTime it doesn't: the primary network
// and all others that could be removed are, what is left stays in the journal
// and is tried for ever.
func (d *Daemon) park(r *request, set *journal.Set, cause error) error {
	state := set.State()
	if !parkable(&state, time.Now()) {
		return cause
	}
	d.opts.Log.Error("a DEL keeps failing: the runtime is told that it is done, and it is tried again from the journal",
		"set", set.Key().String(), "pod", r.pod.String(), "error", cause.Error())
	if r.pod.UID != "" && d.opts.Publisher != nil {
		d.opts.Publisher.Event(publish.Event{
			Pod: r.pod, Type: publish.Warning, Reason: "FailedDetachNetwork",
			Message: "kept for later, the pod is not held up: " + cause.Error(),
		})
	}
	return nil
}

// parkable says whether every delegate that is left has failed often and long
// enough, and none of them is the primary.
func parkable(state *journal.State, now time.Time) bool {
	for _, i := range state.Pending() {
		step := state.Steps[i]
		if step.Failures < parkTries || now.Sub(step.FailedSince) < parkTime || state.Plan.Delegates[i].Primary {
			return false
		}
	}
	return len(state.Pending()) > 0
}

// forget takes back what is not yet published of a pod, unless a newer sandbox
// of the same pod has something to say.
func (d *Daemon) forget(set *journal.Set) {
	uid := set.PodUID()
	if d.opts.Publisher == nil || uid == "" {
		return
	}
	for _, other := range d.opts.Journal.Sets() {
		if other != set && other.PodUID() == uid {
			return
		}
	}
	d.opts.Publisher.Forget(set.State().Plan.Pod)
}

// delUnknown removes what an attachment set left that the journal doesn't
// know: what libcni's cache of results still holds of it (a damaged journal),
// and then whatever the primary network knows of the container (a sandbox that
// is older than this installation). Only then it is success.
func (d *Daemon) delUnknown(ctx context.Context, r *request) error {
	if d.graves.knows(r.key) {
		return nil
	}
	remembered, err := d.opts.Runner.Remembered(r.key)
	if err != nil {
		return err
	}
	p := attach.Plan{Key: r.key, Pod: r.pod, Path: r.path}
	for _, m := range remembered {
		p.Delegates = append(p.Delegates, m.Delegate)
	}
	if len(remembered) == 0 {
		primary, err := d.primaryPlan(r)
		if err != nil {
			return err
		}
		p.Delegates = primary
	}
	path, ns := d.openable(r)
	done := d.running.begin(ctx, r.ContainerID)
	defer done()
	var errs []error
	for i, delegate := range slices.Backward(p.Delegates) {
		r.networks = append(r.networks, delegate.Network)
		call := exec.Call{Plan: &p, Delegate: i, Netns: path, Trace: r.Trace}
		if err := d.delRemembered(ctx, call, i+1); err != nil {
			errs = append(errs, fmt.Errorf("network %s: %w", delegate.Network, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.graves.bury(r.key, ns)
	return nil
}

// delRemembered gives one delegate its share of the time: left delegates still
// have to be asked.
func (d *Daemon) delRemembered(ctx context.Context, call exec.Call, left int) error {
	limit := d.opts.Config.DelegateTimeout.Duration
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/time.Duration(left))
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return d.opts.Runner.Del(ctx, call)
}

// primaryPlan is the primary network as the only delegate.
func (d *Daemon) primaryPlan(r *request) ([]attach.Delegate, error) {
	primary, err := d.opts.Primary.Primary()
	if err != nil {
		return nil, invalid(wire.CodeTryAgainLater, fmt.Errorf("the sandbox is unknown here and no primary network can be asked to remove it: %w", err))
	}
	p, err := plan.Make(plan.Input{
		Key: r.key, Pod: r.pod, Path: r.path, Args: r.args,
		RuntimeConfig: r.conf.RuntimeConfig, Primary: primary,
	})
	if err != nil {
		return nil, invalid(wire.CodeInvalidConfig, err)
	}
	return p.Delegates, nil
}

// openable is the path if it leads to a network namespace that can be the
// sandbox's, else empty, as the specification has it for one that is gone: a
// path may by now be another sandbox's, or of another boot.
func (d *Daemon) openable(r *request) (string, journal.Namespace) {
	if r.Netns == "" || r.spooled != nil && r.spooled.BootID != d.opts.Journal.BootID() {
		return "", journal.Namespace{}
	}
	ns, _, err := sandbox(r.Netns)
	if err != nil {
		return "", journal.Namespace{}
	}
	for _, set := range d.opts.Journal.Sets() {
		state := set.State()
		if set.Key().ContainerID != r.ContainerID && state.NetnsDev == ns.Dev && state.NetnsInode == ns.Inode {
			return "", journal.Namespace{}
		}
	}
	return r.Netns, ns
}
