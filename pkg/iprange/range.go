package iprange

import (
	"fmt"
	"iter"
	"net/netip"
)

// Range is all addresses from First to Last, both included. The zero Range has
// none.
type Range struct{ first, last netip.Addr }

// Between is the range of two addresses of one family, without zones; an error
// names both.
func Between(first, last netip.Addr) (Range, error) {
	for _, addr := range []netip.Addr{first, last} {
		if err := plain(addr); err != nil {
			return Range{}, err
		}
	}
	if first.BitLen() != last.BitLen() {
		return Range{}, fmt.Errorf("range from %s to %s: the ends are of two families; give an IPv4 and an IPv6 range apart", first, last)
	}
	if last.Less(first) {
		return Range{}, fmt.Errorf("range from %s to %s: the end is below the start; swap them", first, last)
	}
	return Range{first, last}, nil
}

// OfPrefix is all addresses of a valid prefix, whatever its host bits.
func OfPrefix(prefix netip.Prefix) Range {
	first := prefix.Masked().Addr()
	host := first.BitLen() - prefix.Bits()
	size := From64(1).shiftLeft(host)
	if host == 128 {
		size = Uint128{}
	}
	// 0-1 must become the highest value here, so no saturation.
	lo := size.Lo - 1
	hi := size.Hi
	if size.Lo == 0 {
		hi--
	}
	base := number(first)
	return Range{first, address(Uint128{base.Hi | hi, base.Lo | lo}, first.BitLen())}
}

// Single is the range of one valid address.
func Single(addr netip.Addr) Range { return Range{addr, addr} }

// First is the lowest address.
func (r Range) First() netip.Addr { return r.first }

// Last is the highest address.
func (r Range) Last() netip.Addr { return r.last }

// IsZero says whether r is the zero Range, which has no address.
func (r Range) IsZero() bool { return !r.first.IsValid() }

// Contains says whether addr lies in r.
func (r Range) Contains(addr netip.Addr) bool {
	return addr.BitLen() == r.first.BitLen() && addr.IsValid() && !addr.Less(r.first) && !r.last.Less(addr)
}

// Overlaps says whether r and other have an address in common.
func (r Range) Overlaps(other Range) bool {
	return !r.Intersect(other).IsZero()
}

// Intersect is what r and other have in common; the zero Range if nothing.
func (r Range) Intersect(other Range) Range {
	if r.IsZero() || other.IsZero() || r.first.BitLen() != other.first.BitLen() {
		return Range{}
	}
	first, last := r.first, r.last
	if first.Less(other.first) {
		first = other.first
	}
	if other.last.Less(last) {
		last = other.last
	}
	if last.Less(first) {
		return Range{}
	}
	return Range{first, last}
}

// Count is the number of addresses, at most 2^128-1 (see Uint128).
func (r Range) Count() Uint128 {
	if r.IsZero() {
		return Uint128{}
	}
	return number(r.last).Sub(number(r.first)).Add(From64(1))
}

// Nth is the address n places after First; false if r has no so many.
func (r Range) Nth(n Uint128) (netip.Addr, bool) {
	if r.IsZero() || number(r.last).Sub(number(r.first)).Cmp(n) < 0 {
		return netip.Addr{}, false
	}
	return address(number(r.first).Add(n), r.first.BitLen()), true
}

// Addrs gives every address, from First to Last.
func (r Range) Addrs() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		if r.IsZero() {
			return
		}
		for addr := r.first; yield(addr) && addr != r.last; {
			addr = addr.Next()
		}
	}
}

// Prefix is r as CIDR; false when it is none.
func (r Range) Prefix() (netip.Prefix, bool) {
	if r.IsZero() {
		return netip.Prefix{}, false
	}
	for bits := range r.first.BitLen() + 1 {
		if prefix := netip.PrefixFrom(r.first, bits); OfPrefix(prefix) == r {
			return prefix, true
		}
	}
	return netip.Prefix{}, false
}

// String is the shortest form that Parse reads back: an address, a CIDR, or
// a-b. The zero Range is "none", which Parse refuses.
func (r Range) String() string {
	if r.IsZero() {
		return "none"
	}
	if r.first == r.last {
		return r.first.String()
	}
	if prefix, ok := r.Prefix(); ok {
		return prefix.String()
	}
	return r.first.String() + "-" + r.last.String()
}

// plain refuses what two texts could mean at once.
func plain(addr netip.Addr) error {
	switch {
	case !addr.IsValid():
		return fmt.Errorf("the zero address is no end of a range; give an IPv4 or IPv6 address")
	case addr.Zone() != "":
		return fmt.Errorf("address %s has a zone; leave %q away", addr, "%"+addr.Zone())
	case addr.Is4In6():
		return fmt.Errorf("address %s is IPv4 in IPv6 clothes; write %s", addr, addr.Unmap())
	}
	return nil
}
