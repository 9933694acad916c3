package probe

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func testMAC() net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, 0x0a} }

func addr4() netip.Addr { return netip.MustParseAddr("192.0.2.5") }

func addr6() netip.Addr { return netip.MustParseAddr("2001:db8::1:2345") }

func targetMAC(mac net.HardwareAddr) []byte { return append([]byte{optTargetMAC, 1}, mac...) }

func sourceMAC(mac net.HardwareAddr) []byte { return append([]byte{optSourceMAC, 1}, mac...) }

// patch is b with one change of it, and a right checksum where there is one.
func patch(b []byte, at int, value byte) []byte {
	b = slices.Clone(b)
	b[at] = value
	return b
}

func sealed(b []byte) []byte {
	b = slices.Clone(b)
	b[ip6Len+2], b[ip6Len+3] = 0, 0
	binary.BigEndian.PutUint16(b[ip6Len+2:], ^sum6(b))
	return b
}

func TestProbesOnTheWire(t *testing.T) {
	arp := []byte{
		0, 1, 8, 0, 6, 4, 0, 1,
		2, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 192, 0, 2, 5,
	}
	if diff := cmp.Diff(arp, arpProbe(testMAC(), addr4())); diff != "" {
		t.Errorf("ARP probe (-want +got):\n%s", diff)
	}
	nd := []byte{
		0x60, 0, 0, 0, 0, 24, 58, 255,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 1, 0x23, 0x45,
		135, 0, 0x06, 0x63, 0, 0, 0, 0,
		0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x23, 0x45,
	}
	if diff := cmp.Diff(nd, solicit(addr6())); diff != "" {
		t.Errorf("solicitation (-want +got):\n%s", diff)
	}
	if got, want := groupMAC(solicitedNode(addr6())).String(), "33:33:ff:01:23:45"; got != want {
		t.Errorf("group %s, want %s", got, want)
	}
	if got, want := groupMAC(allNodes()).String(), "33:33:00:00:00:01"; got != want {
		t.Errorf("group %s, want %s", got, want)
	}
}

func TestHearARP(t *testing.T) {
	other := netip.MustParseAddr("192.0.2.77")
	reply := arpMessage(arpReply, testMAC(), addr4(), netip.IPv4Unspecified())
	cases := []struct {
		name string
		in   []byte
		want *heard
	}{
		{"reply", reply, &heard{addr: addr4(), mac: testMAC()}},
		{"padded to the smallest frame", append(slices.Clone(reply), make([]byte, 18)...), &heard{addr: addr4(), mac: testMAC()}},
		{"request of who has the address", arpMessage(arpRequest, testMAC(), addr4(), other), &heard{addr: addr4(), mac: testMAC()}},
		{"announcement", arpMessage(arpRequest, testMAC(), addr4(), addr4()), &heard{addr: addr4(), mac: testMAC()}},
		{"probe", arpProbe(testMAC(), addr4()), &heard{addr: addr4(), mac: testMAC(), asks: true}},
		{"request for the address is about the asker", arpMessage(arpRequest, testMAC(), other, addr4()), &heard{addr: other, mac: testMAC()}},
		{"reply of nobody", arpMessage(arpReply, testMAC(), netip.IPv4Unspecified(), addr4()), nil},
		{"probe for nothing", arpProbe(testMAC(), netip.IPv4Unspecified()), nil},
		{"empty", nil, nil},
		{"cut", reply[:27], nil},
		{"other hardware", patch(reply, 1, 6), nil},
		{"other protocol", patch(reply, 2, 0x86), nil},
		{"long hardware address", patch(reply, 4, 20), nil},
		{"long address", patch(reply, 5, 16), nil},
		{"reverse ARP", patch(reply, 7, 3), nil},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) { check(t, hearARP, tc.in, tc.want) })
	}
}

func TestHearND(t *testing.T) {
	router, all := netip.MustParseAddr("fe80::1"), allNodes()
	advert := ndMessage(advertisement, addr6(), all, addr6(), targetMAC(testMAC()))
	bare := ndMessage(advertisement, addr6(), all, addr6(), nil)
	nonce := []byte{14, 1, 1, 2, 3, 4, 5, 6}
	cases := []struct {
		name string
		in   []byte
		want *heard
	}{
		{"advertisement", advert, &heard{addr: addr6(), mac: testMAC()}},
		{"advertisement without MAC", bare, &heard{addr: addr6()}},
		{"advertisement by another of its addresses", ndMessage(advertisement, router, all, addr6(), nil), &heard{addr: addr6()}},
		{"padded frame", append(slices.Clone(bare), 0, 0, 0), &heard{addr: addr6()}},
		{"probe", solicit(addr6()), &heard{addr: addr6(), asks: true}},
		{"probe with a nonce", ndMessage(solicitation, netip.IPv6Unspecified(), solicitedNode(addr6()), addr6(), nonce), &heard{addr: addr6(), asks: true}},
		{"question of a neighbour", ndMessage(solicitation, router, solicitedNode(addr6()), addr6(), sourceMAC(testMAC())), nil},
		{"probe to one station", ndMessage(solicitation, netip.IPv6Unspecified(), addr6(), addr6(), nil), nil},
		{"probe with a source", ndMessage(solicitation, netip.IPv6Unspecified(), solicitedNode(addr6()), addr6(), sourceMAC(testMAC())), nil},
		{"about a group", ndMessage(advertisement, addr6(), all, all, nil), nil},
		{"about nothing", ndMessage(advertisement, addr6(), all, netip.IPv6Unspecified(), nil), nil},
		{"empty", nil, nil},
		{"cut header", advert[:39], nil},
		{"cut message", advert[:ip6Len+ndLen], nil},
		{"came through a router", sealed(patch(advert, 7, 254)), nil},
		{"version 4", patch(advert, 0, 4<<4), nil},
		{"UDP", sealed(patch(advert, 6, 17)), nil},
		{"wrong checksum", patch(advert, ip6Len+2, advert[ip6Len+2]^1), nil},
		{"code 1", sealed(patch(advert, ip6Len+1, 1)), nil},
		{"router advertisement", sealed(patch(advert, ip6Len, 134)), nil},
		{"short length", sealed(patch(bare, 5, 16)), nil},
		{"option of no length", ndMessage(advertisement, addr6(), all, addr6(), []byte{2, 0, 0, 0, 0, 0, 0, 0}), nil},
		{"option beyond the end", ndMessage(advertisement, addr6(), all, addr6(), []byte{2, 2, 0, 0, 0, 0, 0, 0}), nil},
		{"half an option", ndMessage(advertisement, addr6(), all, addr6(), []byte{2, 1, 0}), nil},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) { check(t, hearND, tc.in, tc.want) })
	}
}

func check(t *testing.T, hear func([]byte) (heard, bool), in []byte, want *heard) {
	t.Helper()
	got, ok := hear(in)
	if ok != (want != nil) {
		t.Fatalf("heard %v: %+v", ok, got)
	}
	if want == nil {
		want = &heard{}
	}
	opts := cmp.Options{cmp.AllowUnexported(heard{}), cmpopts.EquateComparable(netip.Addr{})}
	if diff := cmp.Diff(*want, got, opts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What is heard stands in the message, and a message made of it says the same.
func FuzzHearARP(f *testing.F) {
	f.Add(arpProbe(testMAC(), addr4()))
	f.Add(arpMessage(arpReply, testMAC(), addr4(), netip.IPv4Unspecified()))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := slices.Clone(b)
		h, ok := hearARP(b)
		if !bytes.Equal(b, before) {
			t.Fatal("the frame was changed")
		}
		if !ok {
			return
		}
		again := arpMessage(arpReply, h.mac, h.addr, netip.IPv4Unspecified())
		if h.asks {
			again = arpProbe(h.mac, h.addr)
		}
		check(t, hearARP, again, &h)
		if !bytes.Equal(again[8:18], b[8:18]) {
			t.Errorf("sender %x, was %x", again[8:18], b[8:18])
		}
	})
}

// The checksum covers all: with any bit turned over nothing is heard, but for
// bits that it leaves out (traffic class and flow label, and what follows the
// message).
func FuzzHearND(f *testing.F) {
	f.Add(solicit(addr6()), uint16(0), byte(0))
	f.Add(ndMessage(advertisement, addr6(), allNodes(), addr6(), targetMAC(testMAC())), uint16(60), byte(3))
	f.Fuzz(func(t *testing.T, b []byte, at uint16, bit byte) {
		h, ok := hearND(b)
		if !ok {
			return
		}
		var options []byte
		if h.mac != nil {
			options = targetMAC(h.mac)
		}
		again := ndMessage(advertisement, h.addr, allNodes(), h.addr, options)
		if h.asks {
			again = solicit(h.addr)
		}
		check(t, hearND, again, &h)
		i := int(at) % len(b)
		end := ip6Len + int(binary.BigEndian.Uint16(b[4:]))
		if i < 4 || i >= end {
			return
		}
		if h, ok := hearND(patch(b, i, b[i]^1<<(bit%8))); ok {
			t.Errorf("with bit %d of byte %d turned over: %+v", bit%8, i, h)
		}
	})
}
