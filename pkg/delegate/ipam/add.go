package ipamdelegate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/delegate"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/netconf"
)

// Add allocates the addresses and returns the result in the version of the
// configuration.
func (d *Delegate) Add(ctx context.Context, call delegate.Call) (types.Result, error) {
	head, config, err := d.parse(call)
	if err != nil {
		return nil, failed(head.Network, err)
	}
	plan, err := d.plan(ctx, config)
	if err != nil {
		return nil, failed(head.Network, err)
	}
	for _, pool := range plan.Definitions {
		if d.opts.Pools != nil {
			d.opts.Pools.Note(pool)
		}
	}
	granted, err := d.allocate(ctx, call, plan)
	if err != nil {
		return nil, failed(head.Network, err)
	}
	result, err := plan.Result(granted).GetAsVersion(head.CNIVersion)
	if err != nil {
		err = fmt.Errorf("the result can't be put into cniVersion %s: %w", head.CNIVersion, err)
		return nil, failed(head.Network, errors.Join(err, d.opts.Allocator.Release(context.WithoutCancel(ctx), plan.Request.Owner.Key)))
	}
	return result, nil
}

// plan finds the pools, makes the plan and logs its notes.
func (d *Delegate) plan(ctx context.Context, config netconf.Config) (netconf.Plan, error) {
	pools, err := d.pools(ctx, config)
	if err != nil && !errors.Is(err, ipam.ErrNoPool) {
		err = fmt.Errorf("%w: IPPools: %w", ipam.ErrNotReady, err)
	}
	if err != nil {
		return netconf.Plan{}, err
	}
	plan, err := config.Plan(pools)
	for _, text := range plan.Notes {
		d.note(config.Network, text)
	}
	return plan, err
}

// allocate asks for the addresses, unless all are fixed.
func (d *Delegate) allocate(ctx context.Context, call delegate.Call, plan netconf.Plan) ([]ipam.Address, error) {
	req := plan.Request
	if len(req.Wants) == 0 {
		return nil, nil
	}
	if err := d.keep(ctx, &req); err != nil {
		return nil, err
	}
	req.Probe = d.probe(call, req.Owner)
	return d.opts.Allocator.Allocate(ctx, req)
}

// keep asks whom the addresses are kept for.
func (d *Delegate) keep(ctx context.Context, req *ipam.Request) error {
	if d.opts.Keep == nil {
		return nil
	}
	keeper, err := d.opts.Keep(ctx, req.Owner.Key)
	if err != nil {
		return fmt.Errorf("%w: whom the addresses are kept for: %w", ipam.ErrNotReady, err)
	}
	if keeper.IsZero() {
		return nil
	}
	if keeper.Network == "" {
		keeper.Network = req.Owner.Network
	}
	if keeper.IfName == "" {
		keeper.IfName = req.Owner.IfName
	}
	req.Keep = keeper
	return nil
}

// probe is the question on the wire, with conflicts told.
func (d *Delegate) probe(call delegate.Call, owner ipam.Owner) func(context.Context, netip.Addr) error {
	if d.opts.ProbeFor == nil || call.Netns == "" {
		return nil
	}
	ask := d.opts.ProbeFor(call.Netns, call.IfName)
	if ask == nil || d.opts.Conflict == nil {
		return ask
	}
	return func(ctx context.Context, addr netip.Addr) error {
		err := ask(ctx, addr)
		if errors.Is(err, ipam.ErrConflict) {
			d.opts.Conflict(owner, addr, err)
		}
		return err
	}
}
