package iprange

import (
	"fmt"
	"net/netip"
	"strings"
)

// ParseAddr reads an IPv4 or IPv6 address. Leading zeros of IPv4 numbers are
// decimal (010 is ten), as Whereabouts reads them.
func ParseAddr(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(decimal(text))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is no IP address; write one like 192.0.2.7 or 2001:db8::7", text)
	}
	if err := plain(addr); err != nil {
		return netip.Addr{}, err
	}
	return addr, nil
}

// ParsePrefix reads a CIDR; its address keeps the host bits that were written.
func ParsePrefix(text string) (netip.Prefix, error) {
	addrText, bitsText, _ := strings.Cut(text, "/")
	prefix, err := netip.ParsePrefix(decimal(addrText) + "/" + bitsText)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no CIDR; write one like 192.0.2.0/24 or 2001:db8::/64", text)
	}
	if err := plain(prefix.Addr()); err != nil {
		return netip.Prefix{}, fmt.Errorf("CIDR %q: %w", text, err)
	}
	return prefix, nil
}

// Parse reads a single address, a CIDR (all of it), or a-b. a-b/prefix is no
// range but a window in a subnet: see Spec.
func Parse(text string) (Range, error) {
	switch firstText, lastText, isPair := strings.Cut(text, "-"); {
	case isPair:
		first, err := ParseAddr(firstText)
		if err != nil {
			return Range{}, fmt.Errorf("range %q: start: %w", text, err)
		}
		last, err := ParseAddr(lastText)
		if err != nil {
			return Range{}, fmt.Errorf("range %q: end: %w", text, err)
		}
		return Between(first, last)
	case strings.Contains(text, "/"):
		prefix, err := ParsePrefix(text)
		if err != nil {
			return Range{}, err
		}
		return OfPrefix(prefix), nil
	default:
		addr, err := ParseAddr(text)
		if err != nil {
			return Range{}, fmt.Errorf("range %q: %w, a CIDR, or first-last", text, err)
		}
		return Single(addr), nil
	}
}

// ParseSet reads ranges with commas between, as Set.String prints them; the
// empty text is the empty set.
func ParseSet(text string) (Set, error) {
	if text == "" {
		return Set{}, nil
	}
	return ParseList(strings.Split(text, ","))
}

// ParseList reads a list of ranges, such as the key "exclude".
func ParseList(texts []string) (Set, error) {
	ranges := make([]Range, 0, len(texts))
	for _, text := range texts {
		r, err := Parse(text)
		if err != nil {
			return Set{}, err
		}
		ranges = append(ranges, r)
	}
	return SetOf(ranges...), nil
}

// decimal takes leading zeros off the numbers of an IPv4 address.
func decimal(text string) string {
	if strings.Contains(text, ":") {
		return text
	}
	parts := strings.Split(text, ".")
	for i, part := range parts {
		if trimmed := strings.TrimLeft(part, "0"); trimmed != "" {
			parts[i] = trimmed
		} else if part != "" {
			parts[i] = "0"
		}
	}
	return strings.Join(parts, ".")
}
