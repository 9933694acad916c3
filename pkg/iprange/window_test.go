package iprange

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResolve(t *testing.T) {
	gateway := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")}
	for _, tc := range []struct {
		name  string
		in    Spec
		want  string
		notes int
		err   string
	}{
		// First and last usable, per length of the prefix.
		{name: "a /24", in: Spec{Range: "10.0.0.0/24"}, want: "10.0.0.1-10.0.0.254"},
		{name: "a /25", in: Spec{Range: "10.0.0.0/25"}, want: "10.0.0.1-10.0.0.126"},
		{name: "a /30", in: Spec{Range: "192.168.0.0/30"}, want: "192.168.0.1-192.168.0.2"},
		{name: "a /17 keeps its .0 and .255 inside", in: Spec{Range: "10.0.128.0/17"}, want: "10.0.128.1-10.0.255.254"},
		{name: "a /31 is all usable", in: Spec{Range: "10.0.0.4/31"}, want: "10.0.0.4/31"},
		{name: "a /32 is its address", in: Spec{Range: "10.0.0.4/32"}, want: "10.0.0.4"},
		{name: "a /127", in: Spec{Range: "2001:db8::/127"}, want: "2001:db8::/127"},
		{name: "a /128", in: Spec{Range: "2001:db8::9/128"}, want: "2001:db8::9"},
		{name: "an IPv6 /120", in: Spec{Range: "2001:db8::/120"}, want: "2001:db8::1-2001:db8::fe"},
		{name: "a /64 beyond 2^63", in: Spec{Range: "2001:db8::/64", Start: "2001:db8::8000:0:0:1"}, want: "2001:db8::8000:0:0:1-2001:db8::ffff:ffff:ffff:fffe"},
		{name: "host bits in the CIDR start nothing", in: Spec{Range: "192.168.2.225/28"}, want: "192.168.2.225-192.168.2.238"},
		{name: "range that ends with zeros", in: Spec{Range: "2001:db8:480:603d:304:403::/96"}, want: "2001:db8:480:603d:304:403:0:1-2001:db8:480:603d:304:403:ffff:fffe"},
		{name: "leading zeros", in: Spec{Range: "010.000.000.000/24", Start: "010.000.000.005"}, want: "10.0.0.5-10.0.0.254"},

		// Start and end.
		{name: "start and end", in: Spec{Range: "10.0.0.0/24", Start: "10.0.0.10", End: "10.0.0.20"}, want: "10.0.0.10-10.0.0.20"},
		{name: "one address between", in: Spec{Range: "10.0.0.0/24", Start: "10.0.0.10", End: "10.0.0.10"}, want: "10.0.0.10"},
		{name: "start at the network", in: Spec{Range: "10.0.0.0/24", Start: "10.0.0.0"}, want: "10.0.0.1-10.0.0.254"},
		{name: "end at the broadcast", in: Spec{Range: "10.0.0.0/24", End: "10.0.0.255"}, want: "10.0.0.1-10.0.0.254"},
		{name: "start out of bounds", in: Spec{Range: "10.0.0.0/24", Start: "10.0.1.1"}, want: "10.0.0.1-10.0.0.254", notes: 1},
		{name: "end out of bounds", in: Spec{Range: "10.0.0.0/24", End: "10.0.1.1"}, want: "10.0.0.1-10.0.0.254", notes: 1},
		{name: "both out of bounds", in: Spec{Range: "10.0.0.0/24", Start: "9.0.0.1", End: "::1"}, want: "10.0.0.1-10.0.0.254", notes: 2},
		{name: "end below start", in: Spec{Range: "10.0.0.0/24", Start: "10.0.0.10", End: "10.0.0.5"}, want: "10.0.0.10-10.0.0.254", notes: 1},
		{name: "pair with a length", in: Spec{Range: "192.168.1.5-192.168.1.25/24"}, want: "192.168.1.5-192.168.1.25"},
		{name: "pair in IPv6", in: Spec{Range: "2001::1-2001::4/116"}, want: "2001::1-2001::4"},
		{name: "pair goes before start and end", in: Spec{Range: "10.0.0.5-10.0.0.9/24", Start: "10.0.0.1", End: "10.0.0.99"}, want: "10.0.0.5-10.0.0.9"},
		{name: "bare pair has no network address", in: Spec{Range: "10.0.0.0-10.0.0.255"}, want: "10.0.0.0/24"},

		// Network and broadcast.
		{name: "layer 3", in: Spec{Range: "10.0.0.0/24", Layer3: true}, want: "10.0.0.0/24"},
		{name: "network included", in: Spec{Range: "10.0.0.0/24", IncludeNetwork: true}, want: "10.0.0.0-10.0.0.254"},
		{name: "broadcast included", in: Spec{Range: "10.0.0.0/24", IncludeBroadcast: true}, want: "10.0.0.1-10.0.0.255"},
		{name: "layer 3 with bounds", in: Spec{Range: "10.0.0.0/24", Layer3: true, Start: "10.0.0.250", End: "10.0.0.255"}, want: "10.0.0.250-10.0.0.255"},

		// Exclusions.
		{name: "a CIDR", in: Spec{Range: "10.0.0.0/28", Exclude: []string{"10.0.0.0/29"}}, want: "10.0.0.8-10.0.0.14"},
		{name: "single, range and CIDR, unsorted", in: Spec{Range: "10.0.0.0/28", Exclude: []string{"10.0.0.12/30", "10.0.0.1", "10.0.0.3-10.0.0.9"}}, want: "10.0.0.2,10.0.0.10/31"},
		{name: "the last usable", in: Spec{Range: "10.0.0.0/29", Exclude: []string{"10.0.0.6"}}, want: "10.0.0.1-10.0.0.5"},
		{name: "very large", in: Spec{Range: "2001:db8::/32", Exclude: []string{"2001:db8::/33"}}, want: "2001:db8:8000::-2001:db8:ffff:ffff:ffff:ffff:ffff:fffe"},
		{name: "elsewhere", in: Spec{Range: "10.0.0.0/29", Exclude: []string{"10.9.0.0/24", "::1"}}, want: "10.0.0.1-10.0.0.6", notes: 2},
		{name: "everything", in: Spec{Range: "10.0.0.0/29", Exclude: []string{"10.0.0.0/24"}}, err: "widen it or exclude less"},
		{name: "no IP", in: Spec{Range: "10.0.0.0/29", Exclude: []string{"10.0.0.1", "badip"}}, err: `exclude: range "badip"`},

		// Gateways.
		{name: "gateway stays", in: Spec{Range: "10.0.0.0/29", Gateways: gateway}, want: "10.0.0.1-10.0.0.6"},
		{name: "gateway taken out", in: Spec{Range: "10.0.0.0/29", Gateways: gateway, ExcludeGateway: true}, want: "10.0.0.2-10.0.0.6"},
		{name: "gateway of IPv6", in: Spec{Range: "2001:db8::/125", Gateways: gateway, ExcludeGateway: true}, want: "2001:db8::2-2001:db8::6"},

		{name: "no length", in: Spec{Range: "10.0.0.1"}, err: "is no CIDR"},
		{name: "empty", in: Spec{}, err: "is no CIDR"},
		{name: "start outside of the CIDR", in: Spec{Range: "10.0.1.5-10.0.0.9/24"}, err: "begin within it"},
		{name: "bare pair upside down", in: Spec{Range: "10.0.0.9-10.0.0.5"}, err: "swap them"},
		{name: "half a pair", in: Spec{Range: "-10.0.0.5/24"}, err: "an end is missing"},
		{name: "bad start", in: Spec{Range: "10.0.0.0/24", Start: "x"}, err: `start: "x" is no IP address`},
		{name: "bad end", in: Spec{Range: "10.0.0.0/24", End: "10.0.0"}, err: `end: "10.0.0" is no IP address`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := tc.in.Resolve()
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("%s, %v; want an error with %q", got.Usable, err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got.Usable.String()); diff != "" {
				t.Errorf("usable (-want +got):\n%s", diff)
			}
			if len(got.Notes) != tc.notes {
				t.Errorf("%d notes, want %d: %q", len(got.Notes), tc.notes, got.Notes)
			}
		})
	}
}
