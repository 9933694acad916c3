package iprange

import (
	"math/big"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func toBig(u Uint128) *big.Int {
	n := new(big.Int).SetUint64(u.Hi)
	return n.Lsh(n, 64).Or(n, new(big.Int).SetUint64(u.Lo))
}

func anyUint128() *rapid.Generator[Uint128] {
	return rapid.Custom(func(t *rapid.T) Uint128 {
		n := Uint128{rapid.Uint64().Draw(t, "hi"), rapid.Uint64().Draw(t, "lo")}
		return n.shiftRight(rapid.IntRange(0, 127).Draw(t, "shift"))
	})
}

// anyAddr is an address of either family; near makes them meet: all lie within
// a few hundred of one base.
func anyAddr(near bool) *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		four := rapid.Bool().Draw(t, "ipv4")
		offset := rapid.Uint64Range(0, 400).Draw(t, "offset")
		if near && four {
			return address(From64(0xffffff00-200+offset), 32)
		}
		if near {
			return address(Uint128{0x20010db800000000, 1<<64 - 200}.Add(From64(offset)), 128)
		}
		if four {
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "four")))
		}
		addr := netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "sixteen")))
		return addr.Unmap()
	})
}

func anyRange(near bool) *rapid.Generator[Range] {
	return rapid.Custom(func(t *rapid.T) Range {
		first := anyAddr(near).Draw(t, "first")
		last := anyAddr(near).Filter(func(a netip.Addr) bool { return a.BitLen() == first.BitLen() }).Draw(t, "last")
		if last.Less(first) {
			first, last = last, first
		}
		r, err := Between(first, last)
		if err != nil {
			t.Fatal(err)
		}
		return r
	})
}

func anySet(near bool) *rapid.Generator[Set] {
	return rapid.Custom(func(t *rapid.T) Set {
		return SetOf(rapid.SliceOfN(anyRange(near), 0, 6).Draw(t, "ranges")...)
	})
}

func TestUint128AgainstBig(t *testing.T) {
	highest := toBig(Uint128{^uint64(0), ^uint64(0)})
	rapid.Check(t, func(t *rapid.T) {
		u, v := anyUint128().Draw(t, "u"), anyUint128().Draw(t, "v")
		a, b := toBig(u), toBig(v)
		sum := new(big.Int).Add(a, b)
		if sum.Cmp(highest) > 0 {
			sum = highest
		}
		difference := new(big.Int).Sub(a, b)
		if difference.Sign() < 0 {
			difference.SetInt64(0)
		}
		shift := rapid.IntRange(0, 128).Draw(t, "by")
		for name, pair := range map[string][2]*big.Int{
			"add":   {toBig(u.Add(v)), sum},
			"sub":   {toBig(u.Sub(v)), difference},
			"left":  {toBig(u.shiftLeft(shift)), new(big.Int).And(new(big.Int).Lsh(a, uint(shift)), highest)},
			"right": {toBig(u.shiftRight(shift)), new(big.Int).Rsh(a, uint(shift))},
		} {
			if pair[0].Cmp(pair[1]) != 0 {
				t.Errorf("%s of %s, %s (shift %d): %s, want %s", name, a, b, shift, pair[0], pair[1])
			}
		}
		if v != (Uint128{}) && toBig(u.Mod(v)).Cmp(new(big.Int).Mod(a, b)) != 0 {
			t.Errorf("%s mod %s: %s", a, b, u.Mod(v))
		}
		if u.Cmp(v) != a.Cmp(b) || u.String() != a.String() {
			t.Errorf("%s, %s: Cmp %d, String %s", a, b, u.Cmp(v), u)
		}
		if a.IsUint64() && u.Uint64() != a.Uint64() || !a.IsUint64() && u.Uint64() != ^uint64(0) {
			t.Errorf("%s as uint64: %d", a, u.Uint64())
		}
	})
}

func TestRangeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRange(false).Draw(t, "range")
		want := new(big.Int).Sub(toBig(number(r.last)), toBig(number(r.first)))
		want.Add(want, big.NewInt(1))
		if want.BitLen() <= 128 && toBig(r.Count()).Cmp(want) != 0 {
			t.Errorf("%s: count %s, want %s", r, r.Count(), want)
		}
		back, err := Parse(r.String())
		if err != nil || back != r {
			t.Errorf("%s reads back as %s, %v", r, back, err)
		}
		n := anyUint128().Draw(t, "n")
		addr, ok := r.Nth(n)
		if ok != (toBig(n).Cmp(want) < 0) {
			t.Errorf("%s has %s addresses, Nth(%s) is %v", r, want, n, ok)
		}
		if ok && (!r.Contains(addr) || number(addr).Sub(number(r.first)) != n) {
			t.Errorf("%s: Nth(%s) is %s", r, n, addr)
		}
		prefix := netip.PrefixFrom(r.first, rapid.IntRange(0, r.first.BitLen()).Draw(t, "bits"))
		whole := OfPrefix(prefix)
		if !prefix.Contains(whole.first) || !prefix.Contains(whole.last) ||
			whole.first.Prev().IsValid() && prefix.Contains(whole.first.Prev()) ||
			whole.last.Next().IsValid() && prefix.Contains(whole.last.Next()) {
			t.Errorf("%s is %s", prefix, whole)
		}
	})
}

// members are the addresses of a set that lies near, found one by one.
func members(t *rapid.T, in func(netip.Addr) bool) []netip.Addr {
	var all []netip.Addr
	for offset := range uint64(500) {
		for _, addr := range []netip.Addr{
			address(From64(0xffffff00-200+min(offset, 455)), 32),
			address(Uint128{0x20010db800000000, 1<<64 - 200}.Add(From64(offset)), 128),
		} {
			if in(addr) {
				all = append(all, addr)
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

func TestSetAlgebra(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anySet(true).Draw(t, "a"), anySet(true).Draw(t, "b")
		for name, op := range map[string]struct {
			got Set
			in  func(netip.Addr) bool
		}{
			"union":     {a.Union(b), func(x netip.Addr) bool { return a.Contains(x) || b.Contains(x) }},
			"intersect": {a.Intersect(b), func(x netip.Addr) bool { return a.Contains(x) && b.Contains(x) }},
			"subtract":  {a.Subtract(b), func(x netip.Addr) bool { return a.Contains(x) && !b.Contains(x) }},
		} {
			want := members(t, op.in)
			if got := slices.Collect(op.got.Addrs()); !slices.Equal(got, want) {
				t.Errorf("%s of %s and %s: %s has %d addresses, want %d", name, a, b, op.got, len(got), len(want))
			}
			if op.got.Count() != From64(uint64(len(want))) {
				t.Errorf("%s of %s and %s: count %s, want %d", name, a, b, op.got.Count(), len(want))
			}
			if !SetOf(op.got.Ranges()...).Equal(op.got) {
				t.Errorf("%s of %s and %s: %s is not in its normal form", name, a, b, op.got)
			}
			if back, err := ParseSet(op.got.String()); err != nil || !back.Equal(op.got) {
				t.Errorf("%s reads back as %s, %v", op.got, back, err)
			}
		}
		if a.Overlaps(b) == a.Intersect(b).IsEmpty() {
			t.Errorf("%s and %s: overlap %v", a, b, a.Overlaps(b))
		}
	})
}

func TestSetWalks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, start := anySet(true).Draw(t, "set"), anyAddr(true).Draw(t, "start")
		all := slices.Collect(s.Addrs())
		at, found := slices.BinarySearchFunc(all, start, netip.Addr.Compare)
		want := slices.Concat(all[at:], all[:at])
		if got := slices.Collect(s.From(start)); !slices.Equal(got, want) {
			t.Errorf("%s from %s: %v, want %v", s, start, got, want)
		}
		next, ok := s.Next(start)
		if ok != (len(all) > 0) {
			t.Errorf("%s after %s: %v", s, start, ok)
		}
		if found {
			want = append(want[1:], want[0])
		}
		if ok && next != want[0] {
			t.Errorf("%s after %s: %s, want %s", s, start, next, want[0])
		}
		for i, addr := range all {
			if got, ok := s.Nth(From64(uint64(i))); !ok || got != addr {
				t.Fatalf("%s: Nth(%d) is %s, want %s", s, i, got, addr)
			}
		}
		if _, ok := s.Nth(From64(uint64(len(all)))); ok {
			t.Errorf("%s has more than %d addresses", s, len(all))
		}
	})
}

func TestGridBlocks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := anySet(true).Draw(t, "set")
		grid := Grid{V4: rapid.IntRange(22, 32).Draw(t, "v4"), V6: rapid.IntRange(118, 128).Draw(t, "v6")}
		var want []netip.Prefix
		for addr := range s.Addrs() {
			want = append(want, grid.Block(addr))
		}
		want = slices.Compact(want)
		blocks := grid.Blocks(s)
		if blocks.Count() != From64(uint64(len(want))) {
			t.Fatalf("%s has %s blocks, want %d", s, blocks.Count(), len(want))
		}
		for i, block := range want {
			if got, ok := blocks.Nth(From64(uint64(i))); !ok || got != block {
				t.Fatalf("%s: block %d is %s, want %s", s, i, got, block)
			}
			if back, err := ParseBlockName(BlockName(block)); err != nil || back != block {
				t.Fatalf("%s reads back as %s, %v", BlockName(block), back, err)
			}
		}
		start := anyUint128().Draw(t, "start")
		got := slices.Collect(blocks.From(start))
		if len(want) > 0 {
			at := start.Mod(From64(uint64(len(want)))).Lo
			want = slices.Concat(want[at:], want[:at])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s from block %s: %v, want %v", s, start, got, want)
		}
	})
}
