package crd

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

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
