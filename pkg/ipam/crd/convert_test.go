package crd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"

	"github.com/meta-cni/meta-cni/pkg/api/v1alpha1"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ippool"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

func comparers() cmp.Option {
	return cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}
}

// through is the object as the API server would give it back.
func through[T any](t *rapid.T, in *T) *T {
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	out := new(T)
	if err := json.Unmarshal(text, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func drawAddr(t *rapid.T, label string) netip.Addr {
	if rapid.Bool().Draw(t, label+" is IPv4") {
		return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, label)))
	}
	addr := netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)))
	return addr.Unmap()
}

func drawNode(t *rapid.T) ipam.Node {
	if rapid.Bool().Draw(t, "nobody") {
		return ipam.Node{}
	}
	text := rapid.StringMatching(`[a-z0-9.-]{0,70}`)
	return ipam.Node{Name: "n" + text.Draw(t, "name"), UID: text.Draw(t, "uid"), Boot: text.Draw(t, "boot"), Log: text.Draw(t, "log")}
}

func drawTime(t *rapid.T) time.Time {
	if rapid.Bool().Draw(t, "no time") {
		return time.Time{}
	}
	return time.UnixMicro(rapid.Int64Range(0, 1<<52).Draw(t, "time")).UTC()
}

// TestObjectsComeBack: what is written is what is read.
func TestObjectsComeBack(t *testing.T) {
	text := rapid.StringMatching(`[ -~]{0,20}`)
	rapid.Check(t, func(t *rapid.T) {
		space := rapid.StringMatching(`[a-z]([-a-z0-9]{0,20}[a-z0-9])?`).Draw(t, "space")
		version := ipam.Version{UID: text.Draw(t, "uid"), Resource: rapid.StringMatching(`[0-9]{0,18}`).Draw(t, "version")}
		addr := drawAddr(t, "address")
		prefix := netip.PrefixFrom(addr, rapid.IntRange(0, addr.BitLen()).Draw(t, "bits")).Masked()
		b := ipam.Block{
			Ref: ipam.BlockRef{Space: space, Prefix: prefix}, Mode: rapid.SampledFrom([]ipam.BlockMode{ipam.Leased, ipam.Shared}).Draw(t, "mode"),
			Owner: drawNode(t), Suspect: rapid.Bool().Draw(t, "suspect"), Version: version,
		}
		block, err := decodeBlock(through(t, encodeBlock(b)))
		if diff := cmp.Diff(b, block, comparers()); err != nil || diff != "" {
			t.Fatalf("%v %s", err, diff)
		}
		c := ipam.Claim{
			Ref: ipam.ClaimRef{Space: space, Addr: addr}, State: rapid.SampledFrom([]ipam.ClaimState{ipam.Bound, ipam.Cooling, ipam.Kept}).Draw(t, "state"),
			Node: drawNode(t), Pool: text.Draw(t, "pool"), Suspect: b.Suspect, Since: drawTime(t), Version: version,
			Owner: ipam.Owner{
				Key:          ipam.Key{ContainerID: text.Draw(t, "container"), IfName: text.Draw(t, "interface"), Network: text.Draw(t, "network")},
				PodNamespace: text.Draw(t, "namespace"), PodName: text.Draw(t, "pod"), PodUID: text.Draw(t, "pod uid"),
			},
		}
		if rapid.Bool().Draw(t, "kept") {
			c.Keep = ipam.Keeper{Kind: ipam.KeepPod, Namespace: text.Draw(t, "ns"), Name: text.Draw(t, "n"), UID: text.Draw(t, "u"), Network: text.Draw(t, "net"), IfName: text.Draw(t, "if")}
		}
		claim, err := decodeClaim(through(t, encodeClaim(c)))
		if diff := cmp.Diff(c, claim, comparers()); err != nil || diff != "" {
			t.Fatalf("%v %s", err, diff)
		}
		as := ipam.Space{
			Name: space, Grid: iprange.Grid{V4: rapid.IntRange(1, 32).Draw(t, "v4"), V6: rapid.IntRange(1, 128).Draw(t, "v6")},
			Mode: rapid.SampledFrom([]ipam.Mode{"", ipam.Auto, ipam.Blocks, ipam.Claims}).Draw(t, "mode of the space"), Cooldown: time.Duration(rapid.Int64Range(0, 1<<60).Draw(t, "cooldown")),
			MaxBlocks: rapid.IntRange(0, 1<<30).Draw(t, "max"), Whereabouts: b.Suspect, Version: version,
		}
		got, err := decodeSpace(through(t, encodeSpace(as)))
		if diff := cmp.Diff(as, got); err != nil || diff != "" {
			t.Fatalf("%v %s", err, diff)
		}
	})
}

// TestDurationsAreAccepted: what is written fits the rule of the API server.
func TestDurationsAreAccepted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, 1<<62).Draw(t, "duration"))
		text := encodeDuration(d)
		if len(text) > 32 || strings.Trim(string(text), "0123456789.nuµmsh") != "" {
			t.Fatalf("%q", text)
		}
		if back, err := decodeDuration(text); err != nil || back != d {
			t.Fatalf("%s came back as %s, %v", d, back, err)
		}
	})
}

// TestPoolOfADefinitionKeepsItsAddresses: however its ranges are written.
func TestPoolOfADefinitionKeepsItsAddresses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		host := rapid.IntRange(1, 200).Draw(t, "host")
		end := host + rapid.IntRange(0, 50).Draw(t, "more")
		pad := rapid.SampledFrom([]string{"%d", "%03d"}).Draw(t, "zeros")
		n := func(n int) string { return "10.0.0." + fmt.Sprintf(pad, n) }
		spec := iprange.Spec{
			Range:          rapid.SampledFrom([]string{"10.0.0.0/24", n(host) + "/24", n(host) + "-" + n(end) + "/24", n(host) + "-" + n(end), "2001:DB8:0::/120"}).Draw(t, "range"),
			Exclude:        rapid.SampledFrom([][]string{nil, {n(250)}, {n(251), "10.0.0.248/30"}, {n(240) + "-" + n(251)}}).Draw(t, "exclude"),
			ExcludeGateway: rapid.Bool().Draw(t, "exclude the gateway"), Layer3: rapid.Bool().Draw(t, "layer 3"),
			IncludeNetwork: rapid.Bool().Draw(t, "network"), IncludeBroadcast: rapid.Bool().Draw(t, "broadcast"),
			Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.254"), netip.MustParseAddr("2001:db8::1")},
		}
		if rapid.Bool().Draw(t, "bounds") && strings.HasPrefix(spec.Range, "10") {
			spec.Start, spec.End = n(host), n(end)
		}
		want, err := spec.Resolve()
		if err != nil {
			t.Skip("no such definition")
		}
		p := ipam.Pool{Name: "p", Space: ipam.Space{Name: "s", Grid: iprange.DefaultGrid(), Mode: ipam.Claims}, Ranges: []ipam.PoolRange{{Spec: spec, Gateway: netip.MustParseAddr("10.0.0.254")}}}
		back, err := ippool.Of("p", through(t, encodePool("p", p)).Spec)
		if err != nil {
			t.Fatal(err)
		}
		got, err := back.Ranges[0].Spec.Resolve()
		if err != nil || !got.Usable.Equal(want.Usable) || got.Subnet != want.Subnet {
			t.Fatalf("usable %s in %s, want %s in %s: %v", got.Usable, got.Subnet, want.Usable, want.Subnet, err)
		}
	})
}

func TestLabelValues(t *testing.T) {
	long := strings.Repeat("n", 64)
	for name, want := range map[string]string{"n1": "n1", "n1.example": "n1.example", long: labelValue(long), "": ""} {
		got := labelValue(name)
		if got != want || len(validation.IsValidLabelValue(got)) > 0 {
			t.Errorf("%q has the label %q", name, got)
		}
	}
	if labelValue(long) == labelValue(long+"n") {
		t.Error("two long names have one label")
	}
}

// TestTouch: two updates of one object never write the same number.
func TestTouch(t *testing.T) {
	seen := map[int64]string{}
	for _, v := range []string{"1", "2", "18446744073709551615", "abc", "abd", "9223372036854775807"} {
		if other, twice := seen[touch(v)]; twice {
			t.Errorf("%s and %s have one touch", v, other)
		}
		seen[touch(v)] = v
	}
}

func TestAdmits(t *testing.T) {
	for name, tc := range map[string]struct {
		selector *metav1.LabelSelector
		want     bool
	}{
		"none": {nil, true}, "empty": {&metav1.LabelSelector{}, true},
		"fits":   {&metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}, true},
		"other":  {&metav1.LabelSelector{MatchLabels: map[string]string{"a": "c"}}, false},
		"absent": {&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "z", Operator: metav1.LabelSelectorOpDoesNotExist}}}, true},
	} {
		if got, err := admits(tc.selector, map[string]string{"a": "b"}); err != nil || got != tc.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// FuzzReadList: a list that is cut anywhere is an error, never a short list,
// and nothing makes it panic.
func FuzzReadList(f *testing.F) {
	f.Add([]byte(`{"kind":"List","metadata":{"continue":"c"},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}],"x":[1,{"y":2}]}`), 40)
	f.Add([]byte(`{"items":null,"metadata":{}}`), 3)
	f.Add([]byte(`[]`), 1)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		read := func(text []byte) ([]string, metav1.ListMeta, error) {
			var names []string
			meta, err := readList(bytes.NewReader(text), func(c *v1alpha1.IPClaim) { names = append(names, c.Name) })
			return names, meta, err
		}
		names, meta, err := read(text)
		var whole v1alpha1.IPClaimList
		if json.Valid(text) && err == nil && json.Unmarshal(text, &whole) == nil && whole.Continue == meta.Continue && bytes.Count(text, []byte("tems")) == 1 {
			var want []string
			for _, c := range whole.Items {
				want = append(want, c.Name)
			}
			if bytes.Contains(text, []byte(`"items"`)) && !slices.Equal(names, want) {
				t.Errorf("%s: read %q, want %q", text, names, want)
			}
		}
		trimmed := bytes.TrimRight(text, " \t\r\n")
		if cut >= 0 && cut < len(trimmed) && json.Valid(text) {
			if _, _, err := read(trimmed[:cut]); err == nil {
				t.Errorf("%s is no list", trimmed[:cut])
			}
		}
	})
}
