package iprange

import (
	"fmt"
	"iter"
	"net/netip"
)

// Grid cuts all addresses into blocks of a fixed size: the lengths of a block's
// prefix for IPv4 (at most 32) and IPv6 (at most 128).
type Grid struct{ V4, V6 int }

// DefaultGrid has 64 addresses a block in both families.
func DefaultGrid() Grid { return Grid{V4: 26, V6: 122} }

// Check refuses a size that no prefix has.
func (g Grid) Check() error {
	if g.V4 < 1 || g.V4 > 32 || g.V6 < 1 || g.V6 > 128 {
		return fmt.Errorf("grid of /%d blocks for IPv4 and /%d for IPv6: give 1 to 32 and 1 to 128", g.V4, g.V6)
	}
	return nil
}

// Block is the block of a valid address.
func (g Grid) Block(addr netip.Addr) netip.Prefix {
	return netip.PrefixFrom(addr, g.bits(addr.BitLen())).Masked()
}

// Blocks are the blocks that have an address of s.
func (g Grid) Blocks(s Set) Blocks {
	var spans []span
	for _, r := range s.ranges {
		bitLen := r.first.BitLen()
		host := bitLen - g.bits(bitLen)
		next := span{number(r.first).shiftRight(host), number(r.last).shiftRight(host), bitLen, host}
		if n := len(spans); n > 0 && spans[n-1].bitLen == bitLen && spans[n-1].last.Cmp(next.first) >= 0 {
			spans[n-1].last = next.last
			continue
		}
		spans = append(spans, next)
	}
	return Blocks{spans}
}

func (g Grid) bits(bitLen int) int {
	if bitLen == 32 {
		return g.V4
	}
	return g.V6
}

// Blocks is a list of blocks of one grid, in order. It is as small as the set
// that it was made of, however many blocks there are.
type Blocks struct{ spans []span }

// span is the blocks from first to last, counted in blocks.
type span struct {
	first, last  Uint128
	bitLen, host int
}

func (s span) count() Uint128 { return s.last.Sub(s.first).Add(From64(1)) }

func (s span) nth(n Uint128) netip.Prefix {
	return netip.PrefixFrom(address(s.first.Add(n).shiftLeft(s.host), s.bitLen), s.bitLen-s.host)
}

// Count is the number of blocks, at most 2^128-1.
func (b Blocks) Count() Uint128 {
	var sum Uint128
	for _, s := range b.spans {
		sum = sum.Add(s.count())
	}
	return sum
}

// Nth is the block with n blocks before it; false if there are no so many.
func (b Blocks) Nth(n Uint128) (netip.Prefix, bool) {
	for _, s := range b.spans {
		if n.Cmp(s.count()) < 0 {
			return s.nth(n), true
		}
		n = n.Sub(s.count())
	}
	return netip.Prefix{}, false
}

// From gives every block once, beginning with the one that has start (modulo
// Count) blocks before it. So each node may walk from a start of its own.
func (b Blocks) From(start Uint128) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		count := b.Count()
		if count.isZero() {
			return
		}
		start = start.Mod(count)
		at := start
		for {
			block, _ := b.Nth(at)
			if !yield(block) {
				return
			}
			if at = at.Add(From64(1)); at.Cmp(count) >= 0 {
				at = Uint128{}
			}
			if at == start {
				return
			}
		}
	}
}
