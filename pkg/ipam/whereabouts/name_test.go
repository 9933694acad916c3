package whereabouts

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

func TestNames(t *testing.T) {
	subnet, addr := netip.MustParsePrefix, netip.MustParseAddr
	for _, test := range []struct{ got, want string }{
		{PoolName("", "", subnet("10.0.0.0/24")), "10.0.0.0-24"},
		{PoolName("red", "", subnet("fd00:41::/112")), "red-fd00-41---112"},
		{PoolName("", "n1", subnet("10.0.0.0/27")), "n1-10.0.0.0-27"},
		{PoolName("red", "n1", subnet("10.0.0.0/27")), "red-n1-10.0.0.0-27"},
		{ReservationName("", addr("10.0.0.5")), "10.0.0.5"},
		{ReservationName("red", addr("10.0.0.5")), "red-10.0.0.5"},
		{ReservationName("", addr("fd00::")), "fd00--0"},
		{ReservationName("red", addr("fd00:41::5")), "red-fd00-41--5"},
	} {
		if test.got != test.want {
			t.Errorf("%q, want %q", test.got, test.want)
		}
	}
}

func TestSubnetOf(t *testing.T) {
	for text, want := range map[string]string{
		"192.168.2.225/28":             "192.168.2.224/28",
		"192.168.2.1-192.168.2.9/24":   "192.168.2.0/24",
		"010.000.0.0/24":               "10.0.0.0/24",
		"fd00:41::1-fd00:41::9/112":    "fd00:41::/112",
		"2001:db8:0:1::1-2001:db8::/4": "2000::/4",
	} {
		got, err := subnetOf(text)
		if err != nil || got.String() != want {
			t.Errorf("%s: %s, %v; want %s", text, got, err, want)
		}
	}
	if got, err := subnetOf("10.0.0.1-10.0.0.9"); err == nil {
		t.Errorf("a range without a prefix: %s", got)
	}
}

func TestOffsets(t *testing.T) {
	for _, test := range []struct{ subnet, offset, want string }{
		{"10.0.0.0/24", "5", "10.0.0.5"},
		{"10.0.0.0/24", "255", "10.0.0.255"},
		{"10.0.0.0/24", "007", "10.0.0.7"},
		{"2001:db8::/64", "9223372036854775809", "2001:db8::8000:0:0:1"},
		{"2001:db8::/48", "18446744073709551617", "2001:db8:0:1::1"},
		{"::/0", "340282366920938463463374607431768211455", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	} {
		got, err := AddressAt(netip.MustParsePrefix(test.subnet), test.offset)
		if err != nil || got.String() != test.want {
			t.Errorf("%s + %s: %s, %v; want %s", test.subnet, test.offset, got, err, test.want)
		}
	}
	for _, bad := range []string{"", "-1", "256", "x", "1_0", "+1", "1e3", "--1", " 1", "99999999999999999999999999999999999999999"} {
		if got, err := AddressAt(netip.MustParsePrefix("10.0.0.0/24"), bad); err == nil {
			t.Errorf("offset %q is %s", bad, got)
		}
	}
}

func anyAddr() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		size := rapid.SampledFrom([]int{4, 16}).Draw(t, "size")
		bytes := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 0, 0, 1, 0x10, 0xff}), size, size).Draw(t, "bytes")
		addr, _ := netip.AddrFromSlice(bytes)
		return addr
	}).Filter(func(addr netip.Addr) bool { return !addr.Is4In6() })
}

func TestNamesAndOffsetsAreReversible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		addr := anyAddr().Draw(t, "addr")
		network := rapid.SampledFrom([]string{"", "red", "red-1", "a.b", "1"}).Draw(t, "network")
		if got, ok := parseReservation(network, ReservationName(network, addr)); !ok || got != addr {
			t.Fatalf("reservation %s reads as %s, %v", ReservationName(network, addr), got, ok)
		}
		subnet := netip.PrefixFrom(addr, rapid.IntRange(0, addr.BitLen()).Draw(t, "bits")).Masked()
		if got, err := AddressAt(subnet, OffsetOf(subnet, addr)); err != nil || got != addr {
			t.Fatalf("offset %s in %s: %s, %v", OffsetOf(subnet, addr), subnet, got, err)
		}
	})
}

func FuzzAddressAt(f *testing.F) {
	f.Add("10.0.0.0/24", "5")
	f.Add("2001:db8::/64", "-9223372036854775807")
	f.Fuzz(func(t *testing.T, subnetText, text string) {
		subnet, err := subnetOf(subnetText)
		if err != nil {
			return
		}
		addr, err := AddressAt(subnet, text)
		if err != nil {
			return
		}
		if !subnet.Contains(addr) {
			t.Fatalf("%s + %q leads out to %s", subnet, text, addr)
		}
		if again, err := AddressAt(subnet, OffsetOf(subnet, addr)); err != nil || again != addr {
			t.Fatalf("%s is %s again: %v", addr, again, err)
		}
	})
}

func FuzzParseReservation(f *testing.F) {
	f.Add("", "fd00--0")
	f.Add("red", "red-10.0.0.5")
	f.Fuzz(func(t *testing.T, network, name string) {
		if addr, ok := parseReservation(network, name); ok && ReservationName(network, addr) != name {
			t.Fatalf("%q reads as %s, which is %q", name, addr, ReservationName(network, addr))
		}
	})
}

func TestNetworkOf(t *testing.T) {
	for _, name := range []string{"", "red", "a-b"} {
		got, err := networkOf(ipam.SpaceName(name, netip.Prefix{}))
		if diff := cmp.Diff(name, got); diff != "" || err != nil {
			t.Errorf("%q: %v\n%s", name, err, diff)
		}
	}
	for _, space := range []string{ipam.SpaceName("a.b", netip.Prefix{}), ipam.SpaceName("red", netip.MustParsePrefix("10.0.0.0/24"))} {
		if got, err := networkOf(space); err == nil {
			t.Errorf("%s has network %q", space, got)
		}
	}
}
