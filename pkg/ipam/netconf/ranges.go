package netconf

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// candidate is a range that may serve a Want.
type candidate struct {
	ipam.Range
	// place is where the range was written, for messages.
	place string
	// spec is as written, for the definition's pool.
	spec iprange.Spec
	// alone is the range whose space is its own (enable_overlapping_ranges:
	// false).
	alone netip.Prefix
	// family is the length of its addresses in bits.
	family int
	// asked are the addresses that a call may ask for by name: all of the
	// subnet but network, broadcast and gateway. What is excluded, or outside
	// of start and end, is kept from dynamic allocation for just that.
	asked iprange.Set
}

// takes says whether the call may ask for addr.
func (c candidate) takes(addr netip.Addr) bool {
	return c.asked.Contains(addr)
}

// written is one range as written, with the place for messages.
type written struct {
	rangeSection
	place   string
	gateway netip.Addr // its own
}

// readRanges resolves `range` and, after it, `ipRanges`.
func (c *Config) readRanges() error {
	all, err := c.writtenRanges()
	if err != nil || len(all) == 0 {
		return err
	}
	gateways, shared, err := c.readGateways(all)
	if err != nil {
		return err
	}
	windows := make([]iprange.Window, len(all))
	specs := make([]iprange.Spec, len(all))
	for i, w := range all {
		specs[i] = c.spec(w, gateways)
		if windows[i], err = specs[i].Resolve(); err != nil {
			return fmt.Errorf("%s: %w", w.place, err)
		}
		for _, note := range windows[i].Notes {
			c.note("%s: %s", w.place, note)
		}
	}
	if err := c.slice(familyOf(windows[0])); err != nil {
		return err
	}
	for i, w := range all {
		cand := c.candidate(w.place, specs[i], windows[i])
		cand.alone = c.alone(specs[i], windows[i])
		cand.Space, cand.Pool, cand.Gateway = c.space(cand.alone), c.Network, w.gateway
		c.ranges = append(c.ranges, cand)
	}
	c.shareGateway(shared)
	return c.narrow(c.ranges)
}

// writtenRanges are all ranges, with the switches that are for all of them.
func (c *Config) writtenRanges() ([]written, error) {
	sec := &c.section
	var all []written
	if sec.Range != "" {
		own := sec.rangeSection
		own.Gateway = "" // it is for the others too
		own.RangeStart = c.boundOrNote("range_start", own.RangeStart)
		own.RangeEnd = c.boundOrNote("range_end", own.RangeEnd)
		all = append(all, written{rangeSection: own, place: "ipam.range"})
	} else if sec.RangeStart != "" || sec.RangeEnd != "" || len(sec.Exclude) > 0 {
		c.note("ipam.range_start, range_end and exclude have no effect: they belong to `range`, which isn't there; write them into ipRanges")
	}
	for i, r := range sec.IPRanges {
		place := fmt.Sprintf("ipam.ipRanges[%d]", i)
		r.EnableL3 = r.EnableL3 || sec.EnableL3
		r.IncludeNetwork = r.IncludeNetwork || sec.IncludeNetwork
		r.IncludeBroadcast = r.IncludeBroadcast || sec.IncludeBroadcast
		w := written{rangeSection: r, place: place}
		if r.Gateway != "" {
			var err error
			if w.gateway, err = iprange.ParseAddr(r.Gateway); err != nil {
				return nil, fmt.Errorf("%s.gateway: %w", place, err)
			}
		}
		all = append(all, w)
	}
	return all, nil
}

// boundOrNote drops a bound of `range` that is no address, as Whereabouts does
// without a word; it refuses one in ipRanges.
func (c *Config) boundOrNote(key, text string) string {
	if text == "" {
		return ""
	}
	if _, err := iprange.ParseAddr(text); err != nil {
		c.note("ipam.%s has no effect: %v", key, err)
		return ""
	}
	return text
}

// readGateways are all gateways, and the one that the ranges share.
func (c *Config) readGateways(all []written) (gateways []netip.Addr, shared netip.Addr, err error) {
	if text := c.section.Gateway; text != "" {
		if shared, err = iprange.ParseAddr(text); err != nil {
			return nil, netip.Addr{}, fmt.Errorf("ipam.gateway: %w", err)
		}
		gateways = append(gateways, shared)
	}
	for _, w := range all {
		if w.gateway.IsValid() {
			gateways = append(gateways, w.gateway)
		}
	}
	return gateways, shared, nil
}

func (c *Config) spec(w written, gateways []netip.Addr) iprange.Spec {
	return iprange.Spec{
		Range: w.Range, Start: w.RangeStart, End: w.RangeEnd, Exclude: w.Exclude,
		Gateways: gateways, ExcludeGateway: c.settings.exclude,
		Layer3: w.EnableL3, IncludeNetwork: w.IncludeNetwork, IncludeBroadcast: w.IncludeBroadcast,
	}
}

// candidate makes a range of a resolved window.
func (c *Config) candidate(place string, spec iprange.Spec, window iprange.Window) candidate {
	return candidate{
		place:  place,
		Range:  ipam.Range{Text: spec.Range, Subnet: window.Subnet, Usable: window.Usable},
		spec:   spec,
		family: familyOf(window),
		asked:  askable(spec, window),
	}
}

// askable are the subnet's addresses but network, broadcast and gateways; none
// if it has no others.
func askable(spec iprange.Spec, window iprange.Window) iprange.Set {
	whole := spec
	whole.Start, whole.End, whole.Exclude, whole.ExcludeGateway = "", "", nil, true
	if window.Subnet.IsValid() {
		whole.Range = window.Subnet.String()
	}
	all, err := whole.Resolve()
	if err != nil {
		return iprange.Set{}
	}
	return all.Usable
}

// shareGateway gives the shared gateway to the ranges without one of their
// own. Whereabouts gives it to every address; here, never across families,
// since no pod can use it there. Of several subnets of type meta-ipam, it is
// for those that it lies in.
func (c *Config) shareGateway(shared netip.Addr) {
	inside := func(r candidate) bool { return r.Subnet.IsValid() && r.Subnet.Contains(shared) }
	narrow := c.Type == Meta && slices.ContainsFunc(c.ranges, inside)
	for i := range c.ranges {
		r := &c.ranges[i]
		if !r.Gateway.IsValid() && shared.BitLen() == r.family && (!narrow || inside(*r)) {
			r.Gateway = shared
		}
	}
}

// narrow takes the addresses that the result has anyway out of the ranges, and
// applies pick_addresses; a range that has none of those stays as it is.
func (c *Config) narrow(ranges []candidate) error {
	fixed, picked := c.fixedSet(), c.settings.picked
	found := picked.IsEmpty() || len(ranges) == 0
	for i := range ranges {
		r := &ranges[i]
		if r.Usable = r.Usable.Subtract(fixed); r.Usable.IsEmpty() {
			return fmt.Errorf("%s: range %q: ipam.addresses has all that is usable in it; widen it", r.place, r.Text)
		}
		if r.Usable.Overlaps(picked) {
			r.Usable, found = r.Usable.Intersect(picked), true
		}
	}
	if !found {
		return fmt.Errorf("ipam.pick_addresses: none of %s is usable in a range", picked)
	}
	return nil
}

// familyOf is the length of the window's addresses in bits.
func familyOf(w iprange.Window) int { return w.Usable.Ranges()[0].First().BitLen() }
