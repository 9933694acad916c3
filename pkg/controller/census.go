package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// Conditions of pools and spaces.
const (
	// Exhausted is True when no address of a pool is free; its reason is
	// NearLimit when a tenth or less is.
	Exhausted = "Exhausted"
	// InUse is True for a space or pool that can't be deleted yet, with the
	// reason in words.
	InUse = "InUse"
)

// Census is who has addresses in one space.
type Census struct {
	Blocks []v1alpha1.IPBlock
	Claims []ipam.Claim
}

// Pool counts a pool. Kept addresses count as used. In a Leased block, what its
// node told last counts: released addresses that rest there are free here.
func (c Census) Pool(pool *v1alpha1.IPPool) (v1alpha1.IPPoolStatus, error) {
	usable, err := usableOf(pool.Spec)
	if err != nil {
		return v1alpha1.IPPoolStatus{}, fmt.Errorf("pool %s: %w", pool.Name, err)
	}
	var used, cooling uint64
	for _, claim := range c.Claims {
		switch {
		case !usable.Contains(claim.Ref.Addr):
		case claim.State == ipam.Cooling:
			cooling++
		default:
			used++
		}
	}
	for i := range c.Blocks {
		used += usedOf(&c.Blocks[i], usable)
	}
	capacity := usable.Count()
	free := capacity.Sub(iprange.From64(used)).Sub(iprange.From64(cooling))
	status := v1alpha1.IPPoolStatus{
		Capacity: capacity.String(), Used: iprange.From64(used).String(),
		Cooling: iprange.From64(cooling).String(), Free: free.String(),
		Conditions: slices.Clone(pool.Status.Conditions),
	}
	meta.SetStatusCondition(&status.Conditions, exhausted(pool.Generation, capacity, free))
	return status, nil
}

func exhausted(generation int64, capacity, free iprange.Uint128) metav1.Condition {
	c := metav1.Condition{Type: Exhausted, Status: metav1.ConditionFalse, Reason: "Enough", Message: "there are free addresses", ObservedGeneration: generation}
	switch {
	case free == iprange.Uint128{}:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, "NoneFree", "every address is used or cooling down: widen the pool, or delete pods"
	case capacity.Hi == 0 && free.Lo <= capacity.Lo/10:
		c.Reason, c.Message = "NearLimit", "a tenth of the addresses or less is free: widen the pool"
	}
	return c
}

func usableOf(spec v1alpha1.IPPoolSpec) (iprange.Set, error) {
	var all iprange.Set
	for _, r := range spec.Ranges {
		one := iprange.Spec{
			Range: r.Range, Start: string(r.Start), End: string(r.End),
			ExcludeGateway: r.ExcludeGateway == nil || *r.ExcludeGateway,
			Layer3:         r.Layer3, IncludeNetwork: r.IncludeNetwork, IncludeBroadcast: r.IncludeBroadcast,
		}
		for _, text := range r.Exclude {
			one.Exclude = append(one.Exclude, string(text))
		}
		if r.Gateway != "" {
			gateway, err := iprange.ParseAddr(string(r.Gateway))
			if err != nil {
				return iprange.Set{}, fmt.Errorf("gateway: %w", err)
			}
			one.Gateways = []netip.Addr{gateway}
		}
		window, err := one.Resolve()
		if err != nil {
			return iprange.Set{}, err
		}
		all = all.Union(window.Usable)
	}
	return all, nil
}

// usedOf counts the addresses of a Leased block that are in use and in the set.
// What a node that is dead told last of a block that was taken from it is over.
func usedOf(b *v1alpha1.IPBlock, set iprange.Set) uint64 {
	prefix, err := netip.ParsePrefix(b.Spec.Prefix)
	if err != nil || b.Spec.Mode != v1alpha1.BlockLeased || b.Spec.Owner == nil {
		return 0
	}
	block := iprange.OfPrefix(prefix)
	if !set.Overlaps(iprange.SetOf(block)) {
		return 0
	}
	var n uint64
	for i, octet := range b.Status.Used {
		for bit := range 8 {
			if octet&(1<<bit) == 0 {
				continue
			}
			if addr, ok := block.Nth(iprange.From64(uint64(i*8 + bit))); ok && set.Contains(addr) {
				n++
			}
		}
	}
	return n
}

// Space counts a space.
func (c Census) Space(as *v1alpha1.AddressSpace) v1alpha1.AddressSpaceStatus {
	status := v1alpha1.AddressSpaceStatus{
		Blocks: int64(len(c.Blocks)), Claims: int64(len(c.Claims)),
		Conditions: slices.Clone(as.Status.Conditions),
	}
	for i := range c.Blocks {
		if c.Blocks[i].Spec.Mode == v1alpha1.BlockLeased {
			status.Leased++
		} else {
			status.Shared++
		}
	}
	meta.SetStatusCondition(&status.Conditions, c.inUse(as.Generation, status))
	return status
}

func (c Census) inUse(generation int64, s v1alpha1.AddressSpaceStatus) metav1.Condition {
	condition := metav1.Condition{Type: InUse, Status: metav1.ConditionTrue, ObservedGeneration: generation}
	switch {
	case s.Claims > 0 || s.Leased > 0:
		condition.Reason, condition.Message = "Addresses", "nodes have blocks or claims in it: delete the pods and pools that use it first"
	case s.Shared > 0:
		condition.Reason, condition.Message = "SharedBlocks", "no address is used, but its blocks are shared for ever, since agents remember it: before they are deleted by hand, restart every meta-cnid"
	default:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, "Empty", "nothing is in it"
	}
	return condition
}

// count writes what people see of a space and its pools.
func (p *pass) count(ctx context.Context, as *v1alpha1.AddressSpace, pools []v1alpha1.IPPool, claims []ipam.Claim) error {
	blocks, err := p.Objects.Blocks(ctx, as.Name)
	if err != nil {
		return fmt.Errorf("list blocks of space %s: %w", as.Name, err)
	}
	census := Census{Blocks: blocks, Claims: claims}
	status := census.Space(as)
	errs := []error{
		p.setInUse(ctx, v1alpha1.ResourceAddressSpaces, as, status.Blocks+status.Claims > 0),
		p.setStatus(ctx, v1alpha1.ResourceAddressSpaces, as, as.Status, status),
	}
	for i := range pools {
		if spaceOf(&pools[i]) == as.Name {
			errs = append(errs, p.countPool(ctx, &pools[i], census))
		}
	}
	return errors.Join(errs...)
}

func spaceOf(pool *v1alpha1.IPPool) string {
	if pool.Spec.AddressSpace == "" {
		return ipam.DefaultSpace
	}
	return pool.Spec.AddressSpace
}

// idlePools counts pools whose space isn't made yet.
func (c *Controller) idlePools(ctx context.Context, spaces []v1alpha1.AddressSpace, pools []v1alpha1.IPPool) error {
	var errs []error
	for i := range pools {
		made := slices.ContainsFunc(spaces, func(as v1alpha1.AddressSpace) bool { return as.Name == spaceOf(&pools[i]) })
		if !made {
			errs = append(errs, c.countPool(ctx, &pools[i], Census{}))
		}
	}
	return errors.Join(errs...)
}

func (c *Controller) countPool(ctx context.Context, pool *v1alpha1.IPPool, census Census) error {
	status, err := census.Pool(pool)
	if err != nil {
		c.Log.Warn("a pool can't be read", "pool", pool.Name, "error", err)
		return nil // its author can mend it
	}
	inUse := status.Used != "0" || status.Cooling != "0"
	return errors.Join(
		c.setInUse(ctx, v1alpha1.ResourceIPPools, pool, inUse),
		c.setStatus(ctx, v1alpha1.ResourceIPPools, pool, pool.Status, status))
}

// setStatus writes a status that changed.
func (c *Controller) setStatus(ctx context.Context, resource string, o metav1.Object, old, status any) error {
	if equality.Semantic.DeepEqual(old, status) {
		return nil
	}
	err := c.Objects.SetStatus(ctx, resource, o.GetName(), versionOf(o), status)
	if err != nil {
		return unlessChanged(err, "write the status of %s %s", resource, o.GetName())
	}
	return nil
}

// setInUse keeps an object that is in use from being deleted, and lets go of
// one that isn't. It gives the object a new version, so that its status has to
// wait for the next pass.
func (c *Controller) setInUse(ctx context.Context, resource string, o metav1.Object, inUse bool) error {
	finalizers := o.GetFinalizers()
	has := slices.Contains(finalizers, v1alpha1.FinalizerInUse)
	if has == inUse || inUse && o.GetDeletionTimestamp() != nil {
		return nil // nothing can be added to what is being deleted
	}
	finalizers = slices.DeleteFunc(slices.Clone(finalizers), func(f string) bool { return f == v1alpha1.FinalizerInUse })
	if inUse {
		finalizers = append(finalizers, v1alpha1.FinalizerInUse)
	}
	err := c.Objects.SetFinalizers(ctx, resource, o.GetName(), versionOf(o), finalizers)
	if err != nil {
		return unlessChanged(err, "set the finalizers of %s %s", resource, o.GetName())
	}
	return nil
}

func versionOf(o metav1.Object) ipam.Version {
	return ipam.Version{UID: string(o.GetUID()), Resource: o.GetResourceVersion()}
}
