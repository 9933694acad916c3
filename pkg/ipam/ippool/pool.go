// Package ippool turns an IPPool into the pool that requests are served from. It
// is pure, and strict: without an API server nobody has looked at an IPPool
// before, and with one its rules are no guarantee for what is stored already.
//
// It doesn't select pools (nodeSelector, namespaceSelector, default): stores do.
// Its invariant: a Pool that is returned without an error has a valid space and
// at least one range with a usable address.
package ippool

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// Of is the pool of that name with what spec says. An error names the key and
// how it should be.
func Of(name string, spec v1alpha1.IPPoolSpec) (ipam.Pool, error) {
	p := ipam.Pool{Name: name, Order: ipam.Order(spec.Order), Sticky: spec.Sticky, Probe: spec.Probe, Definition: spec.Definition}
	orders := []ipam.Order{"", ipam.FIFO, ipam.Lowest, ipam.Random}
	if !slices.Contains(orders, p.Order) {
		return p, fmt.Errorf("order %q: write fifo, lowest or random", p.Order)
	}
	var err error
	if p.Cooldown, err = duration("cooldown", spec.Cooldown); err != nil {
		return p, err
	}
	if p.Space, err = spaceOf(cmp.Or(spec.AddressSpace, ipam.DefaultSpace), spec.NewSpace); err != nil {
		return p, err
	}
	if len(spec.Ranges) == 0 {
		return p, errors.New("it has no ranges: give at least one")
	}
	for _, r := range spec.Ranges {
		one, err := rangeOf(r)
		p.Ranges = append(p.Ranges, one)
		if err != nil {
			return p, err
		}
	}
	if p.Routes, err = routesOf(spec.Routes); err != nil {
		return p, err
	}
	if d := spec.DNS; d != nil {
		for _, server := range d.Nameservers {
			p.Nameservers = append(p.Nameservers, string(server))
		}
		p.Domain, p.Search, p.Options = d.Domain, d.Search, d.Options
	}
	return p, nil
}

// spaceOf is the space with the settings that it gets if it is new.
func spaceOf(name string, settings *v1alpha1.AddressSpaceSpec) (ipam.Space, error) {
	as := ipam.Space{Name: name, Grid: iprange.DefaultGrid(), Mode: ipam.Auto}
	if err := ipam.CheckSpaceName(name); err != nil || settings == nil {
		return as, err
	}
	as.Grid.V4 = cmp.Or(int(settings.Grid.V4), as.Grid.V4)
	as.Grid.V6 = cmp.Or(int(settings.Grid.V6), as.Grid.V6)
	as.Mode = cmp.Or(ipam.Mode(settings.Mode), as.Mode)
	as.MaxBlocks, as.Whereabouts = int(settings.MaxBlocks), settings.Whereabouts
	if !slices.Contains([]ipam.Mode{ipam.Auto, ipam.Blocks, ipam.Claims}, as.Mode) {
		return as, fmt.Errorf("newSpace: mode %q: write auto, blocks or claims", as.Mode)
	}
	var err error
	if as.Cooldown, err = duration("newSpace: cooldown", settings.Cooldown); err == nil {
		err = as.Grid.Check()
	}
	return as, err
}

func duration(what string, text v1alpha1.Duration) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(string(text))
	if err == nil && d < 0 {
		err = errors.New("it can't be negative")
	}
	if err != nil {
		return 0, fmt.Errorf("%s %q: %w; write such as 30s or 10m", what, text, err)
	}
	return d, nil
}

func rangeOf(r v1alpha1.PoolRange) (ipam.PoolRange, error) {
	one := ipam.PoolRange{Spec: iprange.Spec{
		Range: r.Range, Start: string(r.Start), End: string(r.End),
		ExcludeGateway: r.ExcludeGateway == nil || *r.ExcludeGateway,
		Layer3:         r.Layer3, IncludeNetwork: r.IncludeNetwork, IncludeBroadcast: r.IncludeBroadcast,
	}}
	for _, text := range r.Exclude {
		one.Spec.Exclude = append(one.Spec.Exclude, string(text))
	}
	if r.Gateway != "" {
		gateway, err := iprange.ParseAddr(string(r.Gateway))
		if err != nil {
			return one, fmt.Errorf("range %q: gateway: %w", r.Range, err)
		}
		one.Gateway, one.Spec.Gateways = gateway, []netip.Addr{gateway}
	}
	_, err := one.Spec.Resolve()
	return one, err
}

func routesOf(routes []v1alpha1.Route) ([]ipam.PoolRoute, error) {
	var all []ipam.PoolRoute
	for _, r := range routes {
		var one ipam.PoolRoute
		var err error
		if one.Dst, err = iprange.ParsePrefix(string(r.Dst)); err == nil && r.GW != "" {
			one.GW, err = iprange.ParseAddr(string(r.GW))
		}
		if err != nil {
			return nil, fmt.Errorf("routes: %w", err)
		}
		all = append(all, one)
	}
	return all, nil
}
