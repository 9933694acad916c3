package whereabouts

import (
	"fmt"
	"math/big"
	"net/netip"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// object is a range or an address as (part of) an object's name.
func object(text string) string {
	if strings.HasSuffix(text, ":") {
		text += "0"
	}
	return strings.NewReplacer(":", "-", "/", "-").Replace(text)
}

// prefixed puts a network_name or a node before a name.
func prefixed(lead, name string) string {
	if lead == "" {
		return name
	}
	return lead + "-" + name
}

// PoolName is the IPPool of a masked range; node is empty without node slices.
func PoolName(network, node string, subnet netip.Prefix) string {
	return prefixed(network, prefixed(node, object(subnet.String())))
}

// ReservationName is the OverlappingRangeIPReservation of an address.
func ReservationName(network string, addr netip.Addr) string {
	return prefixed(network, object(addr.String()))
}

// parseReservation is the reverse of ReservationName for a known network.
func parseReservation(network, name string) (netip.Addr, bool) {
	if network != "" {
		rest, ok := strings.CutPrefix(name, network+"-")
		if !ok {
			return netip.Addr{}, false
		}
		name = rest
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(name, "-", ":"))
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		return netip.Addr{}, false
	}
	return addr, object(addr.String()) == name
}

// networkOf is the network_name of a space in which Whereabouts has
// reservations; it is an error where that can't be.
func networkOf(space string) (string, error) {
	if space == ipam.DefaultSpace {
		return "", nil
	}
	if strings.Contains(space, "--") {
		return "", fmt.Errorf("%w: address space %s can't be used beside Whereabouts: its name doesn't tell the network_name, or its ranges have enable_overlapping_ranges: false; stop Whereabouts first, then set whereabouts: false in the space", ipam.ErrInvalid, space)
	}
	return space, nil
}

// subnetOf is the masked network of a range as Whereabouts names pools:
// 192.168.2.225/28 and 192.168.2.1-192.168.2.9/24 have one.
func subnetOf(text string) (netip.Prefix, error) {
	if _, rest, ok := strings.Cut(text, "-"); ok {
		text = rest
	}
	prefix, err := iprange.ParsePrefix(text)
	return prefix.Masked(), err
}

// AddressAt is the address at a decimal offset from the subnet's first one.
func AddressAt(subnet netip.Prefix, offset string) (netip.Addr, error) {
	n, err := parseOffset(offset)
	if err != nil {
		return netip.Addr{}, err
	}
	if n.Sign() < 0 {
		return netip.Addr{}, fmt.Errorf("offset %s is negative", offset)
	}
	n.Add(n, number(subnet.Masked().Addr()))
	size := subnet.Addr().BitLen() / 8
	if n.BitLen() > size*8 {
		return netip.Addr{}, fmt.Errorf("offset %s leads out of %s", offset, subnet)
	}
	addr, _ := netip.AddrFromSlice(n.FillBytes(make([]byte, size)))
	if !subnet.Contains(addr) {
		return netip.Addr{}, fmt.Errorf("offset %s leads out of %s", offset, subnet)
	}
	return addr, nil
}

// OffsetOf is the reverse of AddressAt for an address of the subnet.
func OffsetOf(subnet netip.Prefix, addr netip.Addr) string { return offset(subnet, addr).String() }

func offset(subnet netip.Prefix, addr netip.Addr) *big.Int {
	n := number(addr)
	return n.Sub(n, number(subnet.Masked().Addr()))
}

// parseOffset reads decimal digits with an optional minus. The length is
// bounded: no offset has more digits than 2^128.
func parseOffset(text string) (*big.Int, error) {
	digits := strings.TrimPrefix(text, "-")
	if digits == "" || len(digits) > 40 || strings.Trim(digits, "0123456789") != "" {
		return nil, fmt.Errorf("offset %q is no decimal number", text)
	}
	n, _ := new(big.Int).SetString(text, 10)
	return n, nil
}

// sameLow says that both numbers have the same lowest 64 bits: Whereabouts
// keeps no more of an offset.
func sameLow(a, b *big.Int) bool {
	size := new(big.Int).Lsh(big.NewInt(1), 64)
	return new(big.Int).Mod(a, size).Cmp(new(big.Int).Mod(b, size)) == 0
}

func number(addr netip.Addr) *big.Int { return new(big.Int).SetBytes(addr.AsSlice()) }
