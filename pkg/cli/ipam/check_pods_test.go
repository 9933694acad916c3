package ipam

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// TestDuplicates: two pods have one address in one space, as far as that can be
// known, and nothing else is called a duplicate.
func TestDuplicates(t *testing.T) {
	const addr = "10.0.0.5"
	at := func(name, network, addr string) *pod {
		return &pod{namespace: "ns", name: name, uid: "u-" + name, addresses: []podAddress{{"net1", network, netip.MustParseAddr(addr)}}}
	}
	done := func(p *pod) *pod { p.finished = true; return p }
	naming := func(p *pod, claim string) *pod {
		p.claims = `[{"name":"lan","ipam-claim-reference":"` + claim + `"}]`
		return p
	}
	held := func(space, pod, addr string) ipam.Claim {
		return ipam.Claim{
			Ref: ipam.ClaimRef{Space: space, Addr: netip.MustParseAddr(addr)}, State: ipam.Bound,
			Owner: ipam.Owner{Key: ipam.Key{ContainerID: "c", IfName: "net1", Network: "lan"}, PodNamespace: "ns", PodName: pod},
		}
	}
	ofVM := func(c ipam.Claim) ipam.Claim {
		c.Keep = ipam.Keeper{Kind: ipam.KeepClaim, Namespace: "ns", Name: "vm"}
		return c
	}
	cooling := func(c ipam.Claim) ipam.Claim { c.State = ipam.Cooling; return c }
	for _, c := range []struct {
		name   string
		pods   []*pod
		claims []ipam.Claim
		pools  []ipam.Pool
		want   []string
	}{
		{
			name: "one has a claim, the other the same network", pods: []*pod{at("a", "ns/lan", addr), at("b", "ns/lan", addr)},
			claims: []ipam.Claim{held("red", "a", addr)}, want: []string{"address 10.0.0.5 of space red: ns/a ns/b"},
		},
		{
			name: "a third pod tells the network's space", pods: []*pod{at("a", "ns/lan", addr), at("b", "ns/lan", addr), at("c", "ns/lan", "10.0.0.6")},
			claims: []ipam.Claim{held("red", "c", "10.0.0.6")}, want: []string{"address 10.0.0.5 of space red: ns/a ns/b"},
		},
		{
			name: "a pool tells the network's space", pods: []*pod{at("a", "lan", addr), at("b", "lan", addr)},
			pools: []ipam.Pool{{Name: "lan", Definition: "lan", Space: ipam.Space{Name: "red"}}}, want: []string{"address 10.0.0.5 of space red: ns/a ns/b"},
		},
		{
			name: "each has a claim in a space of its own", pods: []*pod{at("a", "ns/lan", addr), at("b", "ns/wan", addr)},
			claims: []ipam.Claim{held("red", "a", addr), held("blue", "b", addr)},
		},
		{
			name: "the other's network isn't ours", pods: []*pod{at("a", "ns/lan", addr), at("b", "flannel", addr)},
			claims: []ipam.Claim{held("red", "a", addr)},
		},
		{
			name: "the other's network has two spaces, and no pool tells which", pods: []*pod{at("a", "ns/lan", addr), at("b", "ns/two", addr), at("c", "ns/two", "10.0.0.7"), at("d", "ns/two", "10.9.0.7")},
			claims: []ipam.Claim{held("red", "a", addr), held("red", "c", "10.0.0.7"), held("blue", "d", "10.9.0.7")},
		},
		{
			name: "the other's network has two spaces, and a pool tells which", pods: []*pod{at("a", "ns/lan", addr), at("b", "ns/two", addr), at("c", "ns/two", "10.0.0.7"), at("d", "ns/two", "10.9.0.7")},
			claims: []ipam.Claim{held("red", "a", addr), held("red", "c", "10.0.0.7"), held("blue", "d", "10.9.0.7")},
			pools:  []ipam.Pool{{Name: "p", Space: ipam.Space{Name: "red"}, Ranges: []ipam.PoolRange{{Spec: iprange.Spec{Range: "10.0.0.0/24"}}}}},
			want:   []string{"address 10.0.0.5 of space red: ns/a ns/b"},
		},
		{
			name: "the other has finished", pods: []*pod{at("a", "ns/lan", addr), done(at("b", "ns/lan", addr))},
			claims: []ipam.Claim{held("red", "a", addr)},
		},
		{
			name: "a claim that cools down tells nothing", pods: []*pod{at("a", "ns/lan", addr), at("b", "ns/lan", addr)},
			claims: []ipam.Claim{cooling(held("red", "a", addr))},
		},
		{
			name: "a virtual machine migrates", pods: []*pod{naming(at("a", "ns/lan", addr), "vm"), naming(at("b", "ns/lan", addr), "vm")},
			claims: []ipam.Claim{ofVM(held("red", "a", addr))},
		},
		{
			name: "a pod has a virtual machine's address", pods: []*pod{naming(at("a", "ns/lan", addr), "vm"), naming(at("b", "ns/lan", addr), "vm2")},
			claims: []ipam.Claim{ofVM(held("red", "a", addr))}, want: []string{"address 10.0.0.5 of space red: ns/a ns/b"},
		},
		{
			name: "three pods", pods: []*pod{at("a", "ns/lan", addr), at("b", "ns/lan", addr), at("c", "ns/lan", addr)},
			claims: []ipam.Claim{held("red", "b", addr)}, want: []string{"address 10.0.0.5 of space red: ns/a ns/b ns/c"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			pods := map[string]*pod{}
			for _, p := range c.pods {
				pods[p.ref()] = p
			}
			look := &checker{seen: newSeen(filter{}), places: placePods(pods)}
			for _, p := range c.pools {
				look.seen.pools = append(look.seen.pools, countOf(poolOf(p, nil)))
			}
			for _, claim := range c.claims {
				look.places.claimed(claim)
			}
			look.duplicates()
			var got []string
			for _, f := range look.findings {
				var names []string
				for _, p := range f.pods {
					names = append(names, p.ref())
				}
				got = append(got, f.Object+": "+strings.Join(names, " "))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestShort(t *testing.T) {
	for text, want := range map[string]string{"10.0.0.0/30": "4", "2001:db8::/64": "~2^64", "2001:db8::/65": "~2^63", "2001:db8::/32": "~2^96", "2001:db8::1-2001:db8:0:1::": "~2^64"} {
		r, err := iprange.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := short(r.Count()); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
