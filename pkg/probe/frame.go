package probe

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// heard is what a frame says about an address: a station has it, or asks for
// it because it wants it.
type heard struct {
	addr netip.Addr
	// mac is the station's by the message, or nil if it doesn't say.
	mac  net.HardwareAddr
	asks bool
}

// Sizes and values of ARP (RFC 826) for IPv4 on Ethernet.
const (
	arpLen     = 28
	arpRequest = 1
	arpReply   = 2
)

// arpHead is hardware type 1, protocol IPv4, and the lengths of their
// addresses.
func arpHead() []byte { return []byte{0, 1, 8, 0, 6, 4} }

// arpProbe asks for addr without saying that we have it (RFC 5227, 1.1).
func arpProbe(mac net.HardwareAddr, addr netip.Addr) []byte {
	return arpMessage(arpRequest, mac, netip.IPv4Unspecified(), addr)
}

// arpMessage has no target hardware address: a probe's is zero.
func arpMessage(op uint16, mac net.HardwareAddr, sender, target netip.Addr) []byte {
	b := binary.BigEndian.AppendUint16(arpHead(), op)
	b = append(append(b, mac...), sender.AsSlice()...)
	b = append(b, make([]byte, 6)...)
	return append(b, target.AsSlice()...)
}

// hearARP reads an ARP message. Its sender has the sender's address, whatever
// it says else; a request without one is a probe for the target.
func hearARP(b []byte) (heard, bool) {
	if len(b) < arpLen || !bytes.Equal(b[:6], arpHead()) {
		return heard{}, false
	}
	op := binary.BigEndian.Uint16(b[6:])
	if op != arpRequest && op != arpReply {
		return heard{}, false
	}
	mac := net.HardwareAddr(bytes.Clone(b[8:14]))
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	switch {
	case !sender.IsUnspecified():
		return heard{addr: sender, mac: mac}, true
	case op == arpRequest && !target.IsUnspecified():
		return heard{addr: target, mac: mac, asks: true}, true
	}
	return heard{}, false
}

// Sizes and values of IPv6 (RFC 8200) and neighbor discovery (RFC 4861).
const (
	ip6Len        = 40
	ndLen         = 24
	ndHops        = 255 // else a router had it in its hands
	solicitation  = 135
	advertisement = 136
	optSourceMAC  = 1
	optTargetMAC  = 2
)

// solicitedNode is the group in which a station with addr listens (RFC 4291,
// 2.7.1).
func solicitedNode(addr netip.Addr) netip.Addr {
	group, from := [16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff}, addr.As16()
	copy(group[13:], from[13:])
	return netip.AddrFrom16(group)
}

// allNodes is where the answer to a probe is sent to.
func allNodes() netip.Addr { return netip.IPv6LinkLocalAllNodes() }

// groupMAC is the Ethernet address of an IPv6 group (RFC 2464, 7).
func groupMAC(group netip.Addr) net.HardwareAddr {
	b := group.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// solicit asks for addr without saying that we have it (RFC 4862, 5.4.2).
func solicit(addr netip.Addr) []byte {
	return ndMessage(solicitation, netip.IPv6Unspecified(), solicitedNode(addr), addr, nil)
}

// ndMessage is a whole IPv6 packet.
func ndMessage(kind byte, src, dst, target netip.Addr, options []byte) []byte {
	body := append(append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice()...), options...)
	b := binary.BigEndian.AppendUint16([]byte{6 << 4, 0, 0, 0}, uint16(len(body)))
	b = append(b, unix.IPPROTO_ICMPV6, ndHops)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	b = append(b, body...)
	binary.BigEndian.PutUint16(b[ip6Len+2:], ^sum6(b))
	return b
}

// sum6 is the sum over the ICMPv6 message of a packet and its pseudo header
// (RFC 4443, 2.3); with a right checksum in it, it is 0xffff.
func sum6(packet []byte) uint16 {
	body := packet[ip6Len:]
	sum := uint32(len(body)) + unix.IPPROTO_ICMPV6
	add := func(b []byte) {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	add(packet[8:ip6Len])
	add(body)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// hearND reads an IPv6 packet. Who advertises an address has it; who solicits
// it and has no address itself wants it (RFC 4862, 5.4.3). Neighbor discovery
// has no extension headers in use.
func hearND(b []byte) (heard, bool) {
	if len(b) < ip6Len+ndLen || b[0]>>4 != 6 || b[6] != unix.IPPROTO_ICMPV6 || b[7] != ndHops {
		return heard{}, false
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length < ndLen || len(b) < ip6Len+length {
		return heard{}, false
	}
	b = b[:ip6Len+length]
	body := b[ip6Len:]
	options, ok := ndOptions(body[ndLen:])
	target := netip.AddrFrom16([16]byte(body[8:24]))
	if !ok || body[1] != 0 || sum6(b) != 0xffff || target.IsMulticast() || target.IsUnspecified() {
		return heard{}, false
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	switch {
	case body[0] == advertisement:
		return heard{addr: target, mac: options[optTargetMAC]}, true
	case body[0] == solicitation && src.IsUnspecified() && dst == solicitedNode(target) && options[optSourceMAC] == nil:
		return heard{addr: target, asks: true}, true
	}
	return heard{}, false
}

// ndOptions are the link-layer addresses among the options, which must fill
// the message without a rest.
func ndOptions(b []byte) (map[byte]net.HardwareAddr, bool) {
	found := map[byte]net.HardwareAddr{}
	for len(b) > 0 {
		if len(b) < 8 || b[1] == 0 || len(b) < 8*int(b[1]) {
			return nil, false
		}
		if b[1] == 1 && (b[0] == optSourceMAC || b[0] == optTargetMAC) {
			found[b[0]] = net.HardwareAddr(bytes.Clone(b[2:8]))
		}
		b = b[8*int(b[1]):]
	}
	return found, true
}
