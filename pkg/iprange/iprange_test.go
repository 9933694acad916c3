package iprange

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, in, want, err string
	}{
		{name: "one address", in: "10.0.0.7", want: "10.0.0.7"},
		{name: "CIDR with host bits", in: "192.168.2.225/28", want: "192.168.2.224/28"},
		{name: "leading zeros are decimal", in: "010.000.000.08/24", want: "10.0.0.0/24"},
		{name: "pair that is a CIDR", in: "10.0.0.0-10.0.0.255", want: "10.0.0.0/24"},
		{name: "pair", in: "10.0.0.1-10.0.0.9", want: "10.0.0.1-10.0.0.9"},
		{name: "IPv6 with left-hand zeros", in: "0fd0:0041::0001-fd0:41::9", want: "fd0:41::1-fd0:41::9"},
		{name: "everything", in: "::/0", want: "::/0"},
		{name: "all of IPv4", in: "0.0.0.0/0", want: "0.0.0.0/0"},
		{name: "end below start", in: "10.0.0.9-10.0.0.1", err: "swap them"},
		{name: "two families", in: "10.0.0.9-::1", err: "two families"},
		{name: "zone", in: "fe80::1%eth0", err: `leave "%eth0" away`},
		{name: "IPv4 in IPv6", in: "::ffff:10.0.0.1", err: "write 10.0.0.1"},
		{name: "IPv4 in IPv6 CIDR", in: "::ffff:10.0.0.0/120", err: "write 10.0.0.0"},
		{name: "empty", in: "", err: "write one like"},
		{name: "open pair", in: "10.0.0.1-", err: `end: "" is no IP address`},
		{name: "bad length", in: "10.0.0.0/33", err: "is no CIDR"},
		{name: "pair with a length", in: "10.0.0.1-10.0.0.9/24", err: `"10.0.0.9/24" is no IP address`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse(tc.in)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("%s, %v; want an error with %q", got, err, tc.err)
				}
				return
			}
			if err != nil || got.String() != tc.want {
				t.Errorf("%s, %v; want %s", got, err, tc.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	for addr, want := range map[string]string{
		"10.0.0.5":    "10.0.0.5",
		"2001:db8::7": "20010db8000000000000000000000007",
	} {
		if got := Name(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is named %s, want %s", addr, got, want)
		}
	}
	for block, want := range map[string]string{
		"10.0.0.64/26":     "10.0.0.64-26",
		"2001:db8::c0/122": "20010db80000000000000000000000c0-122",
	} {
		if got := BlockName(netip.MustParsePrefix(block)); got != want {
			t.Errorf("%s is named %s, want %s", block, got, want)
		}
	}
	for _, name := range []string{
		"", "10.0.0", "010.0.0.1", "::1", "2001:db8::7", "20010DB8000000000000000000000007", "00000000000000000000ffff0a000001",
	} {
		if addr, err := ParseName(name); err == nil {
			t.Errorf("%q is read as %s", name, addr)
		}
	}
	for _, name := range []string{"10.0.0.64", "10.0.0.65-26", "10.0.0.64-026", "10.0.0.64-33", "10.0.0.64-+26", "10.0.0.64--1", "x-26"} {
		if block, err := ParseBlockName(name); err == nil {
			t.Errorf("%q is read as %s", name, block)
		}
	}
}

func TestGridDividesARange(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		grid     Grid
		want     []string
		count    string
	}{
		{"network divided by its own size", "10.0.0.0/24", Grid{24, 122}, []string{"10.0.0.0/24"}, "1"},
		{"by twice its size", "10.0.0.0/24", Grid{23, 122}, []string{"10.0.0.0/23"}, "1"},
		{"in quarters", "10.0.0.0/24", Grid{26, 122}, []string{"10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26", "10.0.0.192/26"}, "4"},
		{"with gaps", "10.0.0.1,10.0.0.63-10.0.0.64,10.0.1.0", Grid{26, 122}, []string{"10.0.0.0/26", "10.0.0.64/26", "10.0.1.0/26"}, "3"},
		{"single addresses", "10.0.0.254-10.0.1.1", Grid{32, 128}, []string{"10.0.0.254/32", "10.0.0.255/32", "10.0.1.0/32", "10.0.1.1/32"}, "4"},
		{"a big network", "10.0.0.0/8", Grid{27, 122}, nil, "524288"},
		{"a /64", "2001:db8::/64", Grid{26, 122}, nil, "288230376151711744"},
		{"everything, one by one", "::/0", Grid{26, 128}, nil, "340282366920938463463374607431768211455"},
		{"everything at once", "0.0.0.0/0", Grid{1, 1}, []string{"0.0.0.0/1", "128.0.0.0/1"}, "2"},
		{"nothing", "", Grid{26, 122}, []string{}, "0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set, err := ParseSet(tc.in)
			if err != nil {
				t.Fatal(err)
			}
			blocks := tc.grid.Blocks(set)
			if got := blocks.Count().String(); got != tc.count {
				t.Errorf("%s blocks, want %s", got, tc.count)
			}
			if tc.want == nil {
				return
			}
			got := []string{}
			for block := range blocks.From(Uint128{}) {
				got = append(got, block.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("blocks (-want +got):\n%s", diff)
			}
		})
	}
	for _, grid := range []Grid{{0, 122}, {26, 0}, {33, 122}, {26, 129}} {
		if grid.Check() == nil {
			t.Errorf("%v is accepted", grid)
		}
	}
	if err := DefaultGrid().Check(); err != nil {
		t.Error(err)
	}
}

func TestWalksMayStopAndBeEmpty(t *testing.T) {
	set, err := ParseSet("10.0.0.0/8,2001:db8::/32")
	if err != nil {
		t.Fatal(err)
	}
	stop := 0
	for range set.Addrs() {
		if stop++; stop == 3 {
			break
		}
	}
	for range DefaultGrid().Blocks(set).From(From64(5)) {
		if stop++; stop == 6 {
			break
		}
	}
	if stop != 6 {
		t.Errorf("stopped at %d", stop)
	}
	if got := slices.Collect(Range{}.Addrs()); len(got) != 0 || (Range{}).String() != "none" {
		t.Errorf("the zero range has %v", got)
	}
	if _, ok := (Range{}).Prefix(); ok {
		t.Error("the zero range is a prefix")
	}
	if _, ok := (Set{}).Next(netip.MustParseAddr("10.0.0.1")); ok {
		t.Error("the empty set has an address")
	}
	if _, err := Between(netip.Addr{}, netip.MustParseAddr("10.0.0.1")); err == nil {
		t.Error("the zero address begins a range")
	}
}

// print∘parse is the identity on what print gives, and print is stable.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"10.0.0.0/24", "10.0.0.1-10.0.0.9", "010.0.0.1", "2001:db8::/122", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "-", "/", "fe80::1%x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Parse(text)
		if err != nil {
			return
		}
		if back, err := Parse(r.String()); err != nil || back != r {
			t.Errorf("%q is %s, which reads as %s, %v", text, r, back, err)
		}
		if r.first.BitLen() != r.last.BitLen() || r.last.Less(r.first) {
			t.Errorf("%q is %s", text, r)
		}
	})
}

func FuzzParseSet(f *testing.F) {
	for _, seed := range []string{"", "10.0.0.0/24,10.0.1.0/24", "10.0.0.9,10.0.0.1-10.0.0.10,::1", ",", "0.0.0.0/0,::/0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSet(text)
		if err != nil {
			return
		}
		if back, err := ParseSet(s.String()); err != nil || !back.Equal(s) || back.String() != s.String() {
			t.Errorf("%q is %s, which reads as %s, %v", text, s, back, err)
		}
	})
}

func FuzzParseNames(f *testing.F) {
	for _, seed := range []string{"10.0.0.64-26", "20010db80000000000000000000000c0-122", "10.0.0.5", "0.0.0.0-0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if addr, err := ParseName(name); err == nil && Name(addr) != name {
			t.Errorf("%q is %s, named %s", name, addr, Name(addr))
		}
		if block, err := ParseBlockName(name); err == nil && BlockName(block) != name {
			t.Errorf("%q is %s, named %s", name, block, BlockName(block))
		}
	})
}

// Whatever a spec comes to is a non-empty part of its subnet.
func FuzzResolve(f *testing.F) {
	f.Add("10.0.0.0/24", "10.0.0.5", "10.0.0.9", "10.0.0.7", true)
	f.Add("10.0.0.5-10.0.0.9/24", "", "", "10.0.0.0/30", false)
	f.Add("2001:db8::1-2001:db8::ff", "", "", "", false)
	f.Fuzz(func(t *testing.T, text, start, end, exclude string, layer3 bool) {
		spec := Spec{Range: text, Start: start, End: end, Layer3: layer3}
		if exclude != "" {
			spec.Exclude = []string{exclude}
		}
		window, err := spec.Resolve()
		if err != nil {
			return
		}
		if window.Usable.IsEmpty() {
			t.Errorf("%+v has no address", spec)
		}
		if window.Subnet.IsValid() && !window.Usable.Subtract(SetOf(OfPrefix(window.Subnet))).IsEmpty() {
			t.Errorf("%+v gives %s outside of %s", spec, window.Usable, window.Subnet)
		}
	})
}
