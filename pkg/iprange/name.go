package iprange

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Name is the address as (part of) an object's name: IPv4 dotted, IPv6 as 32
// hex digits, since a name has neither colons nor two spellings. addr is valid,
// without zone.
func Name(addr netip.Addr) string {
	if addr.Is4() {
		return addr.String()
	}
	b := addr.As16()
	return hex.EncodeToString(b[:])
}

// ParseName is the reverse of Name, and refuses every other spelling.
func ParseName(name string) (netip.Addr, error) {
	var addr netip.Addr
	if b, err := hex.DecodeString(name); err == nil && len(b) == 16 {
		addr = netip.AddrFrom16([16]byte(b))
	} else if parsed, err := netip.ParseAddr(name); err == nil && parsed.Is4() {
		addr = parsed
	}
	if plain(addr) != nil || Name(addr) != name {
		return netip.Addr{}, fmt.Errorf("%q names no address: write IPv4 dotted, IPv6 as 32 small hex digits", name)
	}
	return addr, nil
}

// BlockName is a block as (part of) an object's name: 10.0.0.64-26, or 32 hex
// digits, "-" and the length. The prefix is valid and masked.
func BlockName(block netip.Prefix) string {
	return Name(block.Addr()) + "-" + strconv.Itoa(block.Bits())
}

// ParseBlockName is the reverse of BlockName, and refuses every other spelling.
func ParseBlockName(name string) (netip.Prefix, error) {
	addrName, bitsText, _ := strings.Cut(name, "-")
	addr, err := ParseName(addrName)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("block %q: %w, then \"-\" and the length of the prefix", name, err)
	}
	bits, err := strconv.Atoi(bitsText)
	if err != nil || bits < 0 || bits > addr.BitLen() {
		return netip.Prefix{}, fmt.Errorf("block %q: %q is no length of a prefix of %s; give 0 to %d", name, bitsText, addr, addr.BitLen())
	}
	block := netip.PrefixFrom(addr, bits)
	if block.Masked() != block || BlockName(block) != name {
		return netip.Prefix{}, fmt.Errorf("block %q: that is not where a block begins; write %s", name, BlockName(block.Masked()))
	}
	return block, nil
}
