package iprange

import (
	"iter"
	"net/netip"
	"slices"
	"strings"
)

// Set is any number of addresses, of both families if need be; IPv4 comes
// first. The zero Set is empty. A Set is never changed: operations give new
// ones.
type Set struct{ ranges []Range }

// SetOf is the union of ranges in any order; zero Ranges add nothing.
func SetOf(ranges ...Range) Set {
	sorted := slices.DeleteFunc(slices.Clone(ranges), Range.IsZero)
	slices.SortFunc(sorted, func(a, b Range) int { return a.first.Compare(b.first) })
	var merged []Range
	for _, r := range sorted {
		if n := len(merged); n > 0 && merged[n-1].meets(r) {
			if merged[n-1].last.Less(r.last) {
				merged[n-1].last = r.last
			}
			continue
		}
		merged = append(merged, r)
	}
	return Set{merged}
}

// meets says whether next, which begins at or after r, overlaps or touches it.
func (r Range) meets(next Range) bool {
	return r.last.BitLen() == next.first.BitLen() && (!r.last.Less(next.first) || r.last.Next() == next.first)
}

// Ranges are the set's ranges, sorted, with gaps between them.
func (s Set) Ranges() []Range { return slices.Clone(s.ranges) }

// IsEmpty says whether no address is in s.
func (s Set) IsEmpty() bool { return len(s.ranges) == 0 }

// Equal says whether both sets have the same addresses.
func (s Set) Equal(other Set) bool { return slices.Equal(s.ranges, other.ranges) }

// Union is what is in s or in other.
func (s Set) Union(other Set) Set { return SetOf(slices.Concat(s.ranges, other.ranges)...) }

// Intersect is what is in both.
func (s Set) Intersect(other Set) Set {
	var common []Range
	for i, j := 0, 0; i < len(s.ranges) && j < len(other.ranges); {
		a, b := s.ranges[i], other.ranges[j]
		if both := a.Intersect(b); !both.IsZero() {
			common = append(common, both)
		}
		if a.last.Less(b.last) {
			i++
		} else {
			j++
		}
	}
	return Set{common}
}

// Subtract is what is in s but not in other.
func (s Set) Subtract(other Set) Set {
	var left []Range
	for _, r := range s.ranges {
		rest := r
		for _, hole := range other.ranges {
			cut := rest.Intersect(hole)
			if cut.IsZero() {
				continue
			}
			if rest.first != cut.first {
				left = append(left, Range{rest.first, cut.first.Prev()})
			}
			if rest.last == cut.last {
				rest = Range{}
				break
			}
			rest.first = cut.last.Next()
		}
		if !rest.IsZero() {
			left = append(left, rest)
		}
	}
	return Set{left}
}

// Contains says whether addr is in s.
func (s Set) Contains(addr netip.Addr) bool {
	_, found := s.find(addr)
	return found
}

// Overlaps says whether the sets have an address in common.
func (s Set) Overlaps(other Set) bool { return !s.Intersect(other).IsEmpty() }

// Count is the number of addresses, at most 2^128-1 (see Uint128).
func (s Set) Count() Uint128 {
	var sum Uint128
	for _, r := range s.ranges {
		sum = sum.Add(r.Count())
	}
	return sum
}

// Nth is the address with n members before it; false if there are no so many.
func (s Set) Nth(n Uint128) (netip.Addr, bool) {
	for _, r := range s.ranges {
		if addr, ok := r.Nth(n); ok {
			return addr, true
		}
		n = n.Sub(r.Count())
	}
	return netip.Addr{}, false
}

// Addrs gives every address in order.
func (s Set) Addrs() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for _, r := range s.ranges {
			for addr := range r.Addrs() {
				if !yield(addr) {
					return
				}
			}
		}
	}
}

// Next is the lowest member above addr, or the lowest of all when there is
// none; false if s is empty.
func (s Set) Next(addr netip.Addr) (netip.Addr, bool) {
	for next := range s.From(addr) {
		if next != addr {
			return next, true
		}
	}
	if s.Contains(addr) {
		return addr, true
	}
	return netip.Addr{}, false
}

// From gives every member once: those from start upward, then those below it.
// start need not be a member.
func (s Set) From(start netip.Addr) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		at, _ := s.find(start)
		for i := range len(s.ranges) + 1 {
			if len(s.ranges) == 0 {
				return
			}
			r := s.ranges[(at+i)%len(s.ranges)]
			switch {
			case !r.Contains(start):
				if i == len(s.ranges) {
					return
				}
			case i == 0:
				r.first = start
			case start == r.first:
				return
			default:
				r.last = start.Prev()
			}
			for addr := range r.Addrs() {
				if !yield(addr) {
					return
				}
			}
		}
	}
}

// String is the ranges with commas between, as ParseSet reads them.
func (s Set) String() string {
	texts := make([]string, len(s.ranges))
	for i, r := range s.ranges {
		texts[i] = r.String()
	}
	return strings.Join(texts, ",")
}

// find is the place of the range with addr, or of the first one above it.
func (s Set) find(addr netip.Addr) (int, bool) {
	return slices.BinarySearchFunc(s.ranges, addr, func(r Range, addr netip.Addr) int {
		if r.Contains(addr) {
			return 0
		}
		return r.first.Compare(addr)
	})
}
