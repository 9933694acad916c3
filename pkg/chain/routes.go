package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/netns"
	"github.com/meta-cni/meta-cni/pkg/route"
)

func moves(plan *attach.Plan) []route.Move {
	out := make([]route.Move, len(plan.DefaultRoutes))
	for i, r := range plan.DefaultRoutes {
		out[i] = route.Move{IfName: plan.Delegates[r.Delegate].IfName, Gateway: r.Gateway}
	}
	return out
}

// moveDefaults moves the default routes and makes the results say so. The
// former routes are in the journal before the first one changes.
func (c *Chain) moveDefaults(ctx context.Context, set *journal.Set, state *journal.State, attachments []attach.Attachment) error {
	h, err := netns.Open(state.Plan.Netns)
	if err != nil {
		return err
	}
	wanted := moves(&state.Plan)
	former, err := route.Read(ctx, h, wanted)
	if err != nil {
		return errors.Join(err, h.Close())
	}
	raw, err := json.Marshal(former)
	if err == nil {
		err = set.Routes(raw)
	}
	if err == nil {
		err = route.Apply(ctx, h, wanted, former)
	}
	if err := errors.Join(err, h.Close()); err != nil {
		return err
	}
	return editResults(&state.Plan, wanted, attachments)
}

func editResults(plan *attach.Plan, wanted []route.Move, attachments []attach.Attachment) error {
	results := make([]*types100.Result, len(attachments))
	for i, a := range attachments {
		results[i] = &types100.Result{}
		if err := json.Unmarshal(a.Result, results[i]); err != nil {
			return fmt.Errorf("result of %s: %w", plan.Delegates[a.Delegate].Network, err)
		}
	}
	carriers := make([]int, len(wanted))
	for i, r := range plan.DefaultRoutes {
		carriers[i] = r.Delegate
	}
	edited, err := route.EditResults(wanted, results, carriers)
	if err != nil {
		return err
	}
	for i, result := range edited {
		if attachments[i].Result, err = json.Marshal(result); err != nil {
			return err
		}
	}
	return nil
}

// checkDefaults tells when a moved default route isn't where it was moved to:
// a delegate's CHECK is content with any default route.
func checkDefaults(ctx context.Context, state *journal.State) error {
	if len(state.Plan.DefaultRoutes) == 0 {
		return nil
	}
	h, err := netns.Open(state.Plan.Netns)
	if err != nil {
		return err
	}
	if err := errors.Join(route.Check(ctx, h, moves(&state.Plan)), h.Close()); err != nil {
		return fmt.Errorf("default-route: %w", err)
	}
	return nil
}

// restoreDefaults puts the former default routes back while the namespace
// still stands. A failure is only logged: the delegates' DEL takes the
// interfaces, and the routes with them.
func (c *Chain) restoreDefaults(ctx context.Context, set *journal.Set, state *journal.State, path string) {
	if state.Routes == nil || path == "" {
		return
	}
	if err := restore(ctx, state, path); err != nil {
		c.opts.Log.Warn("the former default routes were not restored", "set", set.Key().String(), "error", err.Error())
		return
	}
	c.keep(set, set.Restored())
}

func restore(ctx context.Context, state *journal.State, path string) error {
	var former route.Former
	if err := json.Unmarshal(state.Routes, &former); err != nil {
		return err
	}
	h, err := netns.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(route.Undo(ctx, h, moves(&state.Plan), former), h.Close())
}
