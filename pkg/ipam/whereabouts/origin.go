package whereabouts

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// origin is where an IPPool comes from.
type origin struct {
	// pool is the IPPool for messages.
	pool   string
	subnet netip.Prefix
	// network is the network_name: the prefix of reservations' names.
	network string
	// networks are those of the definitions that use the pool.
	networks []network
	// spaces are where its addresses belong: one, unless definitions differ.
	spaces []string
	// overlap says that Whereabouts makes reservations for the pool.
	overlap bool
}

// originOf reads an IPPool's name and range. The name of network x without
// slices is that of node x with slices and no network: a NodeSlicePool with
// such a slice decides, and a definition beside it makes it both.
func (s *survey) originOf(pool IPPool) (origin, bool) {
	o := origin{pool: "IPPool " + pool.Name}
	subnet, err := subnetOf(pool.Spec.Range)
	if err != nil {
		s.note(FindingUnreadable, "%s: its range can't be read, and its %d entries are left out: %v", o.pool, len(pool.Spec.Allocations), err)
		return origin{}, false
	}
	o.subnet = subnet
	lead, ok := strings.CutSuffix(pool.Name, object(pool.Spec.Range))
	if !ok {
		lead, ok = strings.CutSuffix(pool.Name, object(subnet.String()))
	}
	if !ok || lead != "" && !strings.HasSuffix(lead, "-") {
		s.note(FindingUnreadable, "%s: its name doesn't end with its range %s; it counts as one without network_name", o.pool, pool.Spec.Range)
		lead = ""
	}
	lead = strings.TrimSuffix(lead, "-")
	network, sliced := s.slice(lead, subnet)
	if !sliced {
		network = lead
	}
	o.network = network
	o.networks = s.users(network, subnet, sliced)
	if plain := s.users(lead, subnet, false); sliced && lead != network && len(plain) > 0 {
		s.note(FindingDefinition, "%s is the name of a slice of node %s and that of network_name %q: its addresses are kept for both", o.pool, lead, lead)
		o.networks = append(o.networks, plain...)
	}
	s.place(&o, sliced)
	return o, true
}

// slice finds the NodeSlicePool that a pool's name speaks of.
func (s *survey) slice(lead string, subnet netip.Prefix) (network string, ok bool) {
	for _, pool := range s.in.Slices {
		for _, slice := range pool.Status.Allocations {
			own, err := subnetOf(slice.SliceRange)
			if err != nil || own != subnet || slice.NodeName == "" {
				continue
			}
			switch lead {
			case slice.NodeName:
				return "", true
			case prefixed(pool.Name, slice.NodeName):
				return pool.Name, true
			}
		}
	}
	return "", false
}

func (s *survey) users(name string, subnet netip.Prefix, sliced bool) []network {
	var users []network
	for _, n := range s.networks {
		if _, ok := n.covers(subnet, sliced); ok && n.name == name {
			users = append(users, n)
		}
	}
	return users
}

// place finds the spaces. Definitions of one pool that differ about overlapping
// ranges put its addresses into every space concerned, so that none gives them
// away again.
func (s *survey) place(o *origin, sliced bool) {
	if o.network == ipam.DefaultSpace {
		s.note(FindingBlocked, "%s: network_name %q is the space of ranges without a network_name; both are one space here, and can't be used beside Whereabouts", o.pool, o.network)
	}
	overlaps := map[bool]bool{}
	for _, n := range o.networks {
		subnet, ok := n.covers(o.subnet, sliced)
		if !ok {
			subnet, _ = n.covers(o.subnet, !sliced)
		}
		overlaps[n.overlap] = true
		o.overlap = o.overlap || n.overlap
		if space := n.space(subnet); !slices.Contains(o.spaces, space) {
			o.spaces = append(o.spaces, space)
		}
	}
	slices.Sort(o.spaces)
	if len(overlaps) > 1 {
		var names []string
		for _, n := range o.networks {
			names = append(names, fmt.Sprintf("%s: %v", n.definition, n.overlap))
		}
		s.note(FindingDefinition, "%s: enable_overlapping_ranges differs (%s): its addresses are kept in %s; make the definitions alike before new pods start", o.pool, strings.Join(names, ", "), strings.Join(o.spaces, " and "))
	}
	if len(o.networks) == 0 {
		o.overlap = true
		o.spaces = []string{ipam.SpaceName(o.network, netip.Prefix{})}
		s.note(FindingDefinition, "%s: no network definition uses it; it counts as one with enable_overlapping_ranges: true in space %s", o.pool, o.spaces[0])
	}
}

// locate is the address of an entry. What Whereabouts cut off an offset is
// found again by the reservation of the same pod and interface.
func (s *survey) locate(o origin, key string, entry Allocation) (netip.Addr, bool) {
	addr, err := AddressAt(o.subnet, key)
	wide := o.subnet.Addr().Is6() && o.subnet.Bits() < 64
	if err == nil && !wide {
		if o.subnet.Addr().Is6() && offset(o.subnet, addr).BitLen() > 63 {
			s.note(FindingTruncated, "%s: entry %s (%s, pod %s): Whereabouts itself can't read offsets from 2^63 and may have given the address to others too", o.pool, key, addr, orNone(entry.PodRef))
		}
		return addr, true
	}
	if err == nil {
		if r, ok := s.reservations[ReservationName(o.network, addr)]; ok && r.Spec.PodRef == entry.PodRef {
			return addr, true
		}
	}
	if found := s.cutOff(o, key, entry); len(found) == 1 {
		s.note(FindingTruncated, "%s: entry %s of pod %s was cut to 64 bits; its reservation says %s", o.pool, key, entry.PodRef, found[0])
		return found[0], true
	}
	if err != nil {
		s.note(FindingUnreadable, "%s: entry %q of pod %s is left out: %v", o.pool, key, orNone(entry.PodRef), err)
		return netip.Addr{}, false
	}
	if o.overlap {
		s.note(FindingTruncated, "%s: entry %s of pod %s: %s has more than 2^64 addresses, and no reservation says that %s is the right one", o.pool, key, orNone(entry.PodRef), o.subnet, addr)
	}
	return addr, true
}

// cutOff are the reserved addresses of the entry's pod and interface whose
// offset has the same lowest 64 bits.
func (s *survey) cutOff(o origin, key string, entry Allocation) []netip.Addr {
	low, err := parseOffset(key)
	if err != nil {
		return nil
	}
	var found []netip.Addr
	for name, r := range s.reservations {
		addr, ok := parseReservation(o.network, name)
		if ok && o.subnet.Contains(addr) && r.Spec.PodRef == entry.PodRef && r.Spec.IfName == entry.IfName && sameLow(low, offset(o.subnet, addr)) {
			found = append(found, addr)
		}
	}
	return found
}

// compare says what the reservation makes of the entry's claim to the address:
// 1 if it agrees or isn't expected.
func (s *survey) compare(o origin, addr netip.Addr, entry Allocation) int {
	if !o.overlap {
		return 1
	}
	name := ReservationName(o.network, addr)
	r, ok := s.reservations[name]
	s.used[name] = true
	switch {
	case !ok:
		s.note(FindingDisagree, "%s: %s of pod %s has no reservation %s", o.pool, addr, orNone(entry.PodRef), name)
		return 0
	case r.Spec.PodRef != entry.PodRef:
		_, lives := s.pods[r.Spec.PodRef]
		s.used[name] = !lives // else it speaks for itself
		s.note(FindingDisagree, "%s: %s belongs to pod %s, but the reservation %s to pod %s; if both run, restart one of them", o.pool, addr, orNone(entry.PodRef), name, orNone(r.Spec.PodRef))
		return 0
	}
	return 1
}

// leftReservations are those without an entry. If their pod exists, it may well
// use the address: Whereabouts answers an ADD whose entry it failed to write.
// So it is kept for that pod.
func (s *survey) leftReservations() {
	names := []string{""}
	for _, n := range s.networks {
		names = append(names, n.name)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, r := range s.in.Reservations {
		if s.used[r.Name] || r.Marked() {
			continue
		}
		s.leftReservation(r, names)
	}
}

func (s *survey) leftReservation(r Reservation, names []string) {
	pod, lives := s.pods[r.Spec.PodRef]
	known := false
	for _, name := range names {
		addr, ok := parseReservation(name, r.Name)
		if !ok {
			continue
		}
		known = true
		if !lives {
			continue
		}
		space := ipam.SpaceName(name, netip.Prefix{})
		s.space(space)
		s.want(space, addr, candidate{claim: s.kept(r, pod, name, addr), rank: rankKept, source: "reservation " + r.Name})
	}
	switch {
	case !known:
		s.note(FindingUnreadable, "reservation %s of pod %s: its name is no address of a known network; it is left out", r.Name, orNone(r.Spec.PodRef))
	case lives:
		s.note(FindingDisagree, "reservation %s of pod %s has no entry of that pod in a pool; the address is kept for it", r.Name, r.Spec.PodRef)
	default:
		s.note(FindingLeaked, "reservation %s: pod %s doesn't exist, and no pool has an entry; it is left out", r.Name, orNone(r.Spec.PodRef))
	}
}

func (s *survey) kept(r Reservation, pod Pod, name string, addr netip.Addr) ipam.Claim {
	o := origin{pool: "reservation " + r.Name, network: name}
	for _, n := range s.networks {
		if n.name == name && slices.ContainsFunc(n.subnets, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			o.networks = append(o.networks, n)
		}
	}
	ifName, cni := s.names(o, addr, Allocation{PodRef: r.Spec.PodRef, IfName: r.Spec.IfName}, pod)
	return ipam.Claim{
		State: ipam.Kept, Pool: o.pool, Since: s.in.Now, Suspect: true,
		Owner: ipam.Owner{
			Key:          ipam.Key{ContainerID: ipam.Unknown, IfName: ifName, Network: cni},
			PodNamespace: pod.Namespace, PodName: pod.Name, PodUID: pod.UID,
		},
		Keep: ipam.Keeper{Kind: ipam.KeepPod, Namespace: pod.Namespace, Name: pod.Name, Network: cni, IfName: ifName},
	}
}
