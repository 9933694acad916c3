package netconf

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// Plan is what one ADD asks for, and what its result has besides.
type Plan struct {
	// Request has no Want when all addresses are fixed. Its Probe is for the
	// caller to fill in.
	Request ipam.Request
	// Fixed addresses come after the granted ones.
	Fixed []Fixed
	// Routes and DNS of the configuration.
	Routes []*types.Route
	DNS    types.DNS
	// Pools are the declared pools; their routes and DNS go to the addresses
	// that they served.
	Pools []ipam.Pool
	// Definitions are the pools that the configuration's own ranges make, one
	// for each space, for ipam.Pools.Note.
	Definitions []ipam.Pool
	// Notes tell what was written and does nothing, in the operator's words.
	Notes []string
}

// Plan makes the plan with the pools that were found under PoolNames, or by
// Match, in their order. Errors wrap ipam.ErrInvalid.
func (c Config) Plan(pools []ipam.Pool) (Plan, error) {
	c.notes, c.fixed = slices.Clone(c.notes), slices.Clone(c.fixed)
	offers := c.ownOffers()
	fromPools, err := c.poolOffers(pools)
	if err != nil {
		return Plan{}, refuse("%w", err)
	}
	offers = append(offers, fromPools...)
	if c.Match && len(offers) == 0 {
		return Plan{}, refuse("no IPPool admits this node and the pod's namespace %q; name a pool in ipam.pool, or give a range", c.Owner.PodNamespace)
	}
	for _, a := range place(slices.Clone(c.asked), offers) {
		if err := c.addFixed(a, offers); err != nil {
			return Plan{}, refuse("%w", err)
		}
	}
	p := Plan{Routes: c.section.Routes, DNS: c.section.DNS, Pools: pools, Definitions: c.definitions()}
	p.Request = c.request(pools)
	for _, o := range offers {
		p.Request.Wants = append(p.Request.Wants, c.want(o))
	}
	c.noteOldVersion(p.Request.Wants)
	p.Fixed, p.Notes = c.fixed, c.notes
	return p, nil
}

// noteOldVersion notes the addresses that a result before CNI 0.3.0 can't tell.
func (c *Config) noteOldVersion(wants []ipam.Want) {
	count := c.fixedCount()
	for _, w := range wants {
		count[w.Ranges[0].Usable.Ranges()[0].First().BitLen()]++
	}
	if c.oldVersion() && (count[32] > 1 || count[128] > 1) {
		c.note("cniVersion %s: the result has the first address of a family alone, the others are lost; write 0.3.1 or later", c.CNIVersion)
	}
}

// ownOffers are one for each range, or with first_available one a family.
func (c *Config) ownOffers() []offer {
	if c.section.IPRangesAllocation == "first_available" {
		return byFamily(c.ranges)
	}
	offers := make([]offer, len(c.ranges))
	for i, r := range c.ranges {
		offers[i].from = []candidate{r}
	}
	return offers
}

// byFamily is one offer a family, each with its candidates in their order.
func byFamily(all []candidate) []offer {
	var offers []offer
	for _, cand := range all {
		i := slices.IndexFunc(offers, func(o offer) bool { return o.from[0].family == cand.family })
		if i < 0 {
			offers = append(offers, offer{})
			i = len(offers) - 1
		}
		offers[i].from = append(offers[i].from, cand)
	}
	return offers
}

// poolOffers are one a family over the ranges of all pools.
func (c *Config) poolOffers(pools []ipam.Pool) ([]offer, error) {
	var all []candidate
	for _, pool := range pools {
		for _, r := range pool.Ranges {
			if r.Gateway.IsValid() && !slices.Contains(r.Spec.Gateways, r.Gateway) {
				r.Spec.Gateways = append(slices.Clone(r.Spec.Gateways), r.Gateway)
			}
			window, err := r.Spec.Resolve()
			if err != nil {
				return nil, fmt.Errorf("IPPool %s: %w", pool.Name, err)
			}
			for _, note := range window.Notes {
				c.note("IPPool %s: range %s: %s", pool.Name, r.Spec.Range, note)
			}
			cand := c.candidate("IPPool "+pool.Name, r.Spec, window)
			cand.Space, cand.Pool, cand.Gateway = pool.Space, pool.Name, r.Gateway
			all = append(all, cand)
		}
	}
	if err := c.narrow(all); err != nil {
		return nil, err
	}
	return byFamily(all), nil
}

// addFixed adds an address of CNI_ARGS IP= that is in no range to the result,
// as Whereabouts does, if the definition lets pods choose; any other is refused.
func (c *Config) addFixed(a ask, offers []offer) error {
	outside := !slices.ContainsFunc(offers, func(o offer) bool {
		return slices.ContainsFunc(o.from, func(r candidate) bool {
			return r.takes(a.addr) || r.Subnet.IsValid() && r.Subnet.Contains(a.addr)
		})
	})
	if c.Type != Whereabouts || a.source != argIP || a.bits < 0 || !outside {
		return unplaced(a, offers)
	}
	if !a.open {
		return fmt.Errorf("%w; %s", unplaced(a, offers), permission)
	}
	f := Fixed{Prefix: netip.PrefixFrom(a.addr, a.bits)}
	for _, gateway := range c.gateways {
		if f.Prefix.Contains(gateway) {
			f.Gateway = gateway
		}
	}
	c.fixed = append(c.fixed, f)
	c.note("%s: %s is in no range of the network: it is added to the result, and nobody sees to it that it is used once", a.source, f.Prefix)
	return nil
}

// want makes the Want of an offer.
func (c *Config) want(o offer) ipam.Want {
	var w ipam.Want
	for _, cand := range o.from {
		r := cand.Range
		if o.ask != nil {
			if !cand.takes(o.ask.addr) || !o.ask.open && !cand.Usable.Contains(o.ask.addr) {
				continue
			}
			w.Addr = o.ask.addr
			r.Usable = r.Usable.Union(iprange.SetOf(iprange.Single(w.Addr)))
			for _, gateway := range c.gateways {
				if r.Subnet.IsValid() && r.Subnet.Contains(gateway) {
					r.Gateway = gateway
				}
			}
			if o.ask.bits >= 0 && r.Subnet.IsValid() && o.ask.bits != r.Subnet.Bits() {
				c.note("%s: /%d of %s has no effect: the subnet is %s", o.ask.source, o.ask.bits, w.Addr, r.Subnet)
			}
		}
		w.Ranges = append(w.Ranges, r)
	}
	return w
}

// request is all but the Wants. What the configuration leaves open comes from
// the pools: the first one's order, the longest cooldown, and stickiness and
// probe if any has them.
func (c *Config) request(pools []ipam.Pool) ipam.Request {
	req := ipam.Request{Owner: c.Owner, Netns: c.netns, Order: c.settings.order, Cooldown: c.settings.cooldown, ProbeAll: c.section.Probe}
	sticky := c.section.Sticky
	var longest time.Duration
	for _, p := range pools {
		if req.Order == "" {
			req.Order = p.Order
		}
		longest = max(longest, p.Cooldown)
		req.ProbeAll = req.ProbeAll || p.Probe
		sticky = sticky || p.Sticky
	}
	if req.Cooldown == 0 {
		req.Cooldown = longest
	}
	if req.Order == "" {
		req.Order = c.defaultOrder()
	}
	switch {
	case sticky && c.Owner.PodName == "":
		c.note("sticky has no effect: CNI_ARGS names no pod")
	case sticky:
		req.Keep = ipam.Keeper{Kind: ipam.KeepPod, Namespace: c.Owner.PodNamespace, Name: c.Owner.PodName, Network: c.Network, IfName: c.Owner.IfName}
	}
	return req
}

func (c *Config) defaultOrder() ipam.Order {
	if c.Type == Whereabouts {
		return ipam.Lowest
	}
	return ipam.FIFO
}
