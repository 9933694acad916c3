package iprange

import (
	"encoding/binary"
	"math"
	"math/big"
	"math/bits"
	"net/netip"
)

// Uint128 counts addresses and blocks. Its sums stay at the highest value
// instead of starting again at zero: ::/0 has one address more than it can
// say, and nobody waits for the difference.
type Uint128 struct{ Hi, Lo uint64 }

// From64 is n as Uint128.
func From64(n uint64) Uint128 { return Uint128{Lo: n} }

// Cmp is -1, 0 or 1 as u is below, equal to or above v.
func (u Uint128) Cmp(v Uint128) int {
	switch {
	case u == v:
		return 0
	case u.Hi < v.Hi || u.Hi == v.Hi && u.Lo < v.Lo:
		return -1
	default:
		return 1
	}
}

// Add is u+v, at most 2^128-1.
func (u Uint128) Add(v Uint128) Uint128 {
	lo, carry := bits.Add64(u.Lo, v.Lo, 0)
	hi, carry := bits.Add64(u.Hi, v.Hi, carry)
	if carry != 0 {
		return Uint128{math.MaxUint64, math.MaxUint64}
	}
	return Uint128{hi, lo}
}

// Sub is u-v, at least 0.
func (u Uint128) Sub(v Uint128) Uint128 {
	lo, borrow := bits.Sub64(u.Lo, v.Lo, 0)
	hi, borrow := bits.Sub64(u.Hi, v.Hi, borrow)
	if borrow != 0 {
		return Uint128{}
	}
	return Uint128{hi, lo}
}

// Mod is u modulo n; n is not 0.
func (u Uint128) Mod(n Uint128) Uint128 {
	if n.Hi == 0 {
		_, rest := bits.Div64(u.Hi%n.Lo, u.Lo, n.Lo)
		return From64(rest)
	}
	// n ≥ 2^64: at most 64 subtractions of a shifted n.
	for shift := bits.LeadingZeros64(n.Hi); shift >= 0; shift-- {
		if part := n.shiftLeft(shift); u.Cmp(part) >= 0 {
			u = u.Sub(part)
		}
	}
	return u
}

// Uint64 is u, or the highest uint64 when u is above it.
func (u Uint128) Uint64() uint64 {
	if u.Hi != 0 {
		return math.MaxUint64
	}
	return u.Lo
}

// String is u in decimal digits.
func (u Uint128) String() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], u.Hi)
	binary.BigEndian.PutUint64(b[8:], u.Lo)
	return new(big.Int).SetBytes(b[:]).String()
}

func (u Uint128) isZero() bool { return u == Uint128{} }

func (u Uint128) shiftLeft(n int) Uint128 {
	if n >= 64 {
		return Uint128{Hi: u.Lo << (n - 64)}
	}
	return Uint128{u.Hi<<n | u.Lo>>(64-n), u.Lo << n}
}

func (u Uint128) shiftRight(n int) Uint128 {
	if n >= 64 {
		return Uint128{Lo: u.Hi >> (n - 64)}
	}
	return Uint128{u.Hi >> n, u.Lo>>n | u.Hi<<(64-n)}
}

// number is the address as a number; IPv4 has the lower 32 bits.
func number(addr netip.Addr) Uint128 {
	if addr.Is4() {
		b := addr.As4()
		return From64(uint64(binary.BigEndian.Uint32(b[:])))
	}
	b := addr.As16()
	return Uint128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// address is the reverse of number in the family of bitLen (32 or 128).
func address(n Uint128, bitLen int) netip.Addr {
	if bitLen == 32 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(n.Lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.Hi)
	binary.BigEndian.PutUint64(b[8:], n.Lo)
	return netip.AddrFrom16(b)
}
