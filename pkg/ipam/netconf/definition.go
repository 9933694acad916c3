package netconf

import (
	"slices"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// definitions are the pools of the own ranges.
func (c *Config) definitions() []ipam.Pool {
	var pools []ipam.Pool
	for _, r := range c.ranges {
		i := slices.IndexFunc(pools, func(p ipam.Pool) bool { return p.Space.Name == r.Space.Name })
		if i < 0 {
			pools = append(pools, c.definition(r))
			i = len(pools) - 1
		}
		pools[i].Ranges = append(pools[i].Ranges, ipam.PoolRange{Spec: canonical(r.spec), Gateway: r.Gateway})
	}
	return pools
}

// definition is a pool without ranges. Its name is the network's, with that of
// the range where each range is a space of its own.
func (c *Config) definition(r candidate) ipam.Pool {
	order := c.settings.order
	if order == "" {
		order = c.defaultOrder()
	}
	p := ipam.Pool{
		Name: ipam.SpaceName(c.Network, r.alone), Space: r.Space, Order: order, Cooldown: c.settings.cooldown,
		Sticky: c.section.Sticky, Probe: c.section.Probe,
		Nameservers: c.section.DNS.Nameservers, Domain: c.section.DNS.Domain, Search: c.section.DNS.Search, Options: c.section.DNS.Options,
		Definition: c.Network,
	}
	for _, route := range c.section.Routes {
		if poolRoute, ok := asPoolRoute(route); ok {
			p.Routes = append(p.Routes, poolRoute)
		}
	}
	return p
}

// canonical is a spec that was resolved, in the one spelling that an IPPool
// takes: Whereabouts' configurations may have leading zeros.
func canonical(spec iprange.Spec) iprange.Spec {
	spec.Start, spec.End = canonicalText(spec.Start), canonicalText(spec.End)
	if first, rest, ok := strings.Cut(spec.Range, "-"); ok {
		spec.Range = canonicalText(first) + "-" + canonicalText(rest)
	} else {
		spec.Range = canonicalText(spec.Range)
	}
	spec.Exclude = slices.Clone(spec.Exclude)
	for i, text := range spec.Exclude {
		if r, err := iprange.Parse(text); err == nil {
			spec.Exclude[i] = r.String()
		}
	}
	return spec
}

// canonicalText respells an address or a CIDR, with its host bits.
func canonicalText(text string) string {
	if prefix, err := iprange.ParsePrefix(text); err == nil {
		return prefix.String()
	}
	if addr, err := iprange.ParseAddr(text); err == nil {
		return addr.String()
	}
	return text
}
