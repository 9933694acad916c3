package crd

import (
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// decodePool is the pool as ipam knows it; selectors and `default` stay here.
func decodePool(name string, spec v1alpha1.IPPoolSpec) (ipam.Pool, error) {
	p := ipam.Pool{Name: name, Order: ipam.Order(spec.Order), Sticky: spec.Sticky, Probe: spec.Probe, Definition: spec.Definition}
	var err error
	if p.Cooldown, err = decodeDuration(spec.Cooldown); err != nil {
		return p, fmt.Errorf("cooldown: %w", err)
	}
	if p.Space, err = decodePoolSpace(spec); err != nil {
		return p, err
	}
	for _, r := range spec.Ranges {
		one, err := decodeRange(r)
		if err != nil {
			return p, err
		}
		p.Ranges = append(p.Ranges, one)
	}
	for _, r := range spec.Routes {
		var route ipam.PoolRoute
		if route.Dst, err = iprange.ParsePrefix(string(r.Dst)); err == nil && r.GW != "" {
			route.GW, err = iprange.ParseAddr(string(r.GW))
		}
		if err != nil {
			return p, fmt.Errorf("routes: %w", err)
		}
		p.Routes = append(p.Routes, route)
	}
	if d := spec.DNS; d != nil {
		for _, server := range d.Nameservers {
			p.Nameservers = append(p.Nameservers, string(server))
		}
		p.Domain, p.Search, p.Options = d.Domain, d.Search, d.Options
	}
	return p, nil
}

// decodePoolSpace is the space with the settings that it gets if it is new.
func decodePoolSpace(spec v1alpha1.IPPoolSpec) (ipam.Space, error) {
	name := spec.AddressSpace
	if name == "" {
		name = ipam.DefaultSpace
	}
	if spec.NewSpace == nil {
		return ipam.Space{Name: name, Grid: iprange.DefaultGrid(), Mode: ipam.Auto}, nil
	}
	settings := *spec.NewSpace
	if settings.Grid == (v1alpha1.Grid{}) {
		grid := iprange.DefaultGrid()
		settings.Grid = v1alpha1.Grid{V4: int32(grid.V4), V6: int32(grid.V6)}
	}
	if settings.Mode == "" {
		settings.Mode = string(ipam.Auto)
	}
	return decodeSpaceSpec(name, settings)
}

func decodeRange(r v1alpha1.PoolRange) (ipam.PoolRange, error) {
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
	return one, nil
}

// encodePool is an IPPool for a pool of a network definition. What such a
// definition may write in several ways is written in the one that the API
// server takes.
func encodePool(name string, p ipam.Pool) *v1alpha1.IPPool {
	space := encodeSpaceSpec(p.Space)
	out := &v1alpha1.IPPool{TypeMeta: typeMeta("IPPool"), ObjectMeta: metav1.ObjectMeta{Name: name}}
	out.Spec = v1alpha1.IPPoolSpec{
		AddressSpace: p.Space.Name, NewSpace: &space,
		Order: v1alpha1.Order(p.Order), Cooldown: encodeDuration(p.Cooldown), Sticky: p.Sticky, Probe: p.Probe, Definition: p.Definition,
	}
	for _, r := range p.Ranges {
		out.Spec.Ranges = append(out.Spec.Ranges, encodeRange(r))
	}
	for _, r := range p.Routes {
		route := v1alpha1.Route{Dst: v1alpha1.CIDR(r.Dst.String())}
		if r.GW.IsValid() {
			route.GW = v1alpha1.IP(r.GW.String())
		}
		out.Spec.Routes = append(out.Spec.Routes, route)
	}
	if len(p.Nameservers)+len(p.Search)+len(p.Options) > 0 || p.Domain != "" {
		out.Spec.DNS = &v1alpha1.DNS{Domain: p.Domain, Search: p.Search, Options: p.Options}
		for _, server := range p.Nameservers {
			out.Spec.DNS.Nameservers = append(out.Spec.DNS.Nameservers, v1alpha1.IP(oneSpelling(server)))
		}
	}
	return out
}

func encodeRange(r ipam.PoolRange) v1alpha1.PoolRange {
	exclude := r.Spec.ExcludeGateway
	out := v1alpha1.PoolRange{
		Range: rangeSpelling(r.Spec.Range), Start: v1alpha1.IP(oneSpelling(r.Spec.Start)), End: v1alpha1.IP(oneSpelling(r.Spec.End)),
		ExcludeGateway: &exclude, Layer3: r.Spec.Layer3, IncludeNetwork: r.Spec.IncludeNetwork, IncludeBroadcast: r.Spec.IncludeBroadcast,
	}
	if r.Gateway.IsValid() {
		out.Gateway = v1alpha1.IP(r.Gateway.String())
	}
	for _, text := range r.Spec.Exclude {
		if hole, err := iprange.Parse(text); err == nil {
			text = hole.String()
		}
		out.Exclude = append(out.Exclude, v1alpha1.RangeText(text))
	}
	for _, gateway := range r.Spec.Gateways {
		if exclude && gateway != r.Gateway {
			out.Exclude = append(out.Exclude, v1alpha1.RangeText(gateway.String()))
		}
	}
	return out
}

// oneSpelling leaves what is no address as it is: the API server says what is
// wrong with it.
func oneSpelling(text string) string {
	if addr, err := iprange.ParseAddr(text); err == nil {
		return addr.String()
	}
	return text
}

func rangeSpelling(text string) string {
	first, rest, isPair := strings.Cut(text, "-")
	if isPair {
		last, bits, isWindow := strings.Cut(rest, "/")
		text = oneSpelling(first) + "-" + oneSpelling(last)
		if isWindow {
			text += "/" + bits
		}
		return text
	}
	if prefix, err := iprange.ParsePrefix(text); err == nil {
		return prefix.String()
	}
	return text
}

// admits says whether labels fit a selector; none fits all.
func admits(selector *metav1.LabelSelector, set labels.Set) (bool, error) {
	if selector == nil {
		return true, nil
	}
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return false, err
	}
	return parsed.Matches(set), nil
}
