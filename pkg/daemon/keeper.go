package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/netns"
)

// keeper is the IPAMClaim that the pod names for a network
// (ipam-claim-reference, multi-net-spec v1.3, 4.1.2.1.11), as the journal has
// it: the plan is written before any plugin calls.
func (d *Daemon) keeper(ctx context.Context, claims ipamClaims, key ipam.Key) (ipam.Keeper, error) {
	for _, set := range d.opts.Journal.Sets() {
		if set.Key().ContainerID != key.ContainerID {
			continue
		}
		state := set.State()
		for _, delegate := range state.Plan.Delegates {
			if delegate.IfName != key.IfName || delegate.Selection == nil || delegate.Selection.Element.IPAMClaimReference == "" {
				continue
			}
			return claimed(ctx, claims, state.Plan.Pod.Namespace, delegate.Selection.Element.IPAMClaimReference)
		}
	}
	return ipam.Keeper{}, nil
}

func claimed(ctx context.Context, claims ipamClaims, namespace, name string) (ipam.Keeper, error) {
	if claims == nil {
		return ipam.Keeper{}, fmt.Errorf("%w: IPAMClaim %s/%s: there are none without Kubernetes: take ipam-claim-reference out", ipam.ErrInvalid, namespace, name)
	}
	uid, err := claims.IPAMClaimUID(ctx, namespace, name)
	if err != nil {
		return ipam.Keeper{}, err
	}
	return ipam.Keeper{Kind: ipam.KeepClaim, Namespace: namespace, Name: name, UID: uid}, nil
}

// announcing tells in an IPAMClaim which addresses it has.
type announcing struct {
	ipam.Allocator
	claims ipamClaims
	d      *Daemon
}

// Allocate is that of the agent; the telling doesn't hold it up.
func (a announcing) Allocate(ctx context.Context, req ipam.Request) ([]ipam.Address, error) {
	granted, err := a.Allocator.Allocate(ctx, req)
	if err == nil && req.Keep.Kind == ipam.KeepClaim && a.claims != nil {
		a.d.active.Go(func() { a.announce(context.WithoutCancel(ctx), req, granted) })
	}
	return granted, err
}

const (
	announceTries = 4
	announcePause = 2 * time.Second
)

func (a announcing) announce(ctx context.Context, req ipam.Request, granted []ipam.Address) {
	ips := make([]string, len(granted))
	for i, g := range granted {
		ips[i] = g.Prefix.String()
	}
	err := errors.New("not tried")
	for try := 0; err != nil && try < announceTries; try++ {
		if try > 0 && !waited(ctx, announcePause) {
			break
		}
		err = a.claims.PatchIPAMClaimStatus(ctx, req.Keep.Namespace, req.Keep.Name, req.Keep.UID, ips, req.Owner.PodName)
	}
	if err == nil {
		return
	}
	a.d.opts.Log.Warn("an IPAMClaim doesn't say which addresses it has", "claim", req.Keep.String(), "error", err.Error())
}

// sandboxMayLive is false only if a sandbox certainly is gone: no request for
// it is under way, the journal has nothing of it, and its namespace isn't in a
// folder that has others. An empty folder may be a mount that was lost.
func (d *Daemon) sandboxMayLive(owner ipam.Owner, path string) bool {
	if _, busy := d.running.outer(owner.ContainerID); busy || path == "" {
		return true
	}
	for _, set := range d.opts.Journal.Sets() {
		if set.Key().ContainerID == owner.ContainerID {
			return true
		}
	}
	h, err := netns.Open(path)
	if err == nil {
		_ = h.Close()
		return true
	}
	return !errors.Is(err, netns.ErrGone) || !netns.HasOthers(path)
}
