package ipamtest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// leased and bound are the objects of the lists' tests.
func leased(ref ipam.BlockRef, owner string) ipam.Block {
	return ipam.Block{Ref: ref, Mode: ipam.Leased, Owner: node(owner)}
}

func bound(ref ipam.ClaimRef, owner string) ipam.Claim {
	return ipam.Claim{Ref: ref, State: ipam.Bound, Node: node(owner), Owner: fullClaim(ref).Owner}
}

func blockAt(space, prefix string) ipam.BlockRef {
	return ipam.BlockRef{Space: space, Prefix: netip.MustParsePrefix(prefix)}
}

func claimAt(space, addr string) ipam.ClaimRef {
	return ipam.ClaimRef{Space: space, Addr: netip.MustParseAddr(addr)}
}

func set(t *testing.T, text string) iprange.Set {
	t.Helper()
	if text == "" {
		return iprange.Set{}
	}
	s, err := iprange.ParseSet(text)
	must(t, err)
	return s
}

// sortedBlocks is a read of a list in order.
func sortedBlocks(read func() ([]ipam.Block, error)) func() (any, error) {
	return func() (any, error) {
		blocks, err := read()
		sortBlocks(blocks)
		return blocks, err
	}
}

func sortedClaims(read func() ([]ipam.Claim, error)) func() (any, error) {
	return func() (any, error) {
		claims, err := read()
		sortClaims(claims)
		return claims, err
	}
}

func nodeBlocks(t *testing.T, w pair) {
	k := blockThings()
	long := strings.Repeat("n", 253)
	mine := []ipam.Block{
		k.made(t, w.a, leased(block("default", 1), "n1")),
		k.made(t, w.b, leased(blockAt("default", "2001:db8::/122"), "n1")),
		k.made(t, w.a, leased(block("other", 1), "n1")),
	}
	theirs := []ipam.Block{k.made(t, w.a, leased(block("default", 2), "n11"))}
	longs := []ipam.Block{k.made(t, w.a, leased(block("default", 3), long))}
	k.made(t, w.a, ipam.Block{Ref: block("default", 4), Mode: ipam.Shared})
	check := func(what, node string, want []ipam.Block) {
		t.Helper()
		for _, s := range []ipam.Store{w.a, w.b} {
			soon(t, what, want, sortedBlocks(func() ([]ipam.Block, error) { return s.NodeBlocks(t.Context(), node) }))
		}
	}
	check("n1", "n1", mine)
	check("n11", "n11", theirs)
	check("a long name", long, longs)
	check("nobody", "n111", nil)

	var err error
	mine[0].Suspect = true
	mine[0], err = k.update(t.Context(), w.b, mine[0])
	must(t, err)
	check("n1 after an update", "n1", mine)
	shared := mine[0]
	shared.Mode, shared.Owner = ipam.Shared, ipam.Node{}
	_, err = k.update(t.Context(), w.b, shared)
	must(t, err)
	must(t, k.remove(t.Context(), w.b, mine[2], mine[2].Version))
	check("n1 after a change to Shared and a deletion", "n1", mine[1:2])
}

func nodeClaims(t *testing.T, w pair) {
	k := claimThings()
	long := strings.Repeat("n", 253)
	cooling := bound(claim("default", 2), "n1")
	cooling.State, cooling.Owner = ipam.Cooling, ipam.Owner{}
	imported := bound(claim("default", 3), "n1")
	imported.Node = ipam.Node{Name: "n1"}
	mine := []ipam.Claim{
		k.made(t, w.a, bound(claim("default", 1), "n1")),
		k.made(t, w.a, cooling),
		k.made(t, w.b, imported),
		k.made(t, w.b, bound(claimAt("default", "2001:db8::1"), "n1")),
		k.made(t, w.b, bound(claim("other", 1), "n1")),
	}
	theirs := []ipam.Claim{k.made(t, w.a, bound(claim("default", 4), "n11"))}
	longs := []ipam.Claim{k.made(t, w.a, bound(claim("default", 5), long))}
	check := func(what, node string, want []ipam.Claim) {
		t.Helper()
		for _, s := range []ipam.Store{w.a, w.b} {
			soon(t, what, want, sortedClaims(func() ([]ipam.Claim, error) { return s.NodeClaims(t.Context(), node) }))
		}
	}
	check("n1", "n1", mine)
	check("n11", "n11", theirs)
	check("a long name", long, longs)

	moved := mine[0]
	moved.Node = node("n11")
	moved, err := k.update(t.Context(), w.b, moved)
	must(t, err)
	must(t, k.remove(t.Context(), w.a, mine[4], mine[4].Version))
	check("n1 after a move and a deletion", "n1", mine[1:4])
	check("n11 after the move", "n11", append([]ipam.Claim{moved}, theirs...))
}

// keptClaims differ from the keeper in one field each.
func keptClaims(t *testing.T, w pair) {
	k := claimThings()
	long := strings.Repeat("k", 253)
	keep := keeper(long)
	others := []ipam.Keeper{keep, keep, keep, keep, keep, keep, {}}
	others[0].Kind = ipam.KeepPod
	others[1].Namespace = "other"
	others[2].Name = long[:252] + "l"
	others[3].UID = "another"
	others[4].Network = "another"
	others[5].IfName = "net2"
	for n, other := range others {
		c := bound(claim("default", 100+n), "n1")
		c.Keep = other
		k.made(t, w.a, c)
	}
	var want []ipam.Claim
	for n, state := range []ipam.ClaimState{ipam.Bound, ipam.Kept, ipam.Cooling} {
		c := bound(claim("default", n), fmt.Sprint("n", n))
		c.State, c.Keep = state, keep
		want = append(want, k.made(t, w.a, c))
	}
	elsewhere := bound(claim("other", 1), "n1")
	elsewhere.Keep = keep
	want = append(want, k.made(t, w.b, elsewhere))
	check := func(what string, keep ipam.Keeper, want []ipam.Claim) {
		t.Helper()
		for _, s := range []ipam.Store{w.a, w.b} {
			got, err := sortedClaims(func() ([]ipam.Claim, error) { return s.KeptClaims(t.Context(), keep) })()
			must(t, err)
			same(t, what, want, got)
		}
	}
	check("the keeper", keep, want)
	check("nobody's", keeper("nobody"), nil)
	given := want[1]
	given.State, given.Keep = ipam.Cooling, ipam.Keeper{}
	_, err := k.update(t.Context(), w.b, given)
	must(t, err)
	must(t, k.remove(t.Context(), w.b, want[2], want[2].Version))
	check("after one was given away and one deleted", keep, []ipam.Claim{want[0], want[3]})
}

func spaceBlocks(t *testing.T, w pair) {
	k := blockThings()
	made := map[string]ipam.Block{}
	for _, prefix := range []string{"10.0.0.0/26", "10.0.0.64/26", "10.0.1.0/26", "10.1.0.0/26", "2001:db8::/122", "2001:db8::40/122", "2001:db8:1::/122"} {
		made[prefix] = k.made(t, w.a, leased(blockAt("default", prefix), "n1"))
	}
	k.made(t, w.a, leased(blockAt("other", "10.0.0.0/26"), "n1"))
	for _, c := range []struct{ name, within, want string }{
		{"nothing", "", ""},
		{"one address", "10.0.0.63", "10.0.0.0/26"},
		{"the end of one and the begin of the next", "10.0.0.63-10.0.0.64", "10.0.0.0/26 10.0.0.64/26"},
		{"a range without blocks", "10.0.2.0/24", ""},
		{"between two blocks", "10.0.0.128-10.0.0.255", ""},
		{"a /16", "10.0.0.0/16", "10.0.0.0/26 10.0.0.64/26 10.0.1.0/26"},
		{"all of IPv4", "0.0.0.0/0", "10.0.0.0/26 10.0.0.64/26 10.0.1.0/26 10.1.0.0/26"},
		{"a range with gaps", "10.0.0.1,10.1.0.1-10.1.0.5", "10.0.0.0/26 10.1.0.0/26"},
		{"IPv6", "2001:db8::/64", "2001:db8::/122 2001:db8::40/122"},
		{"one IPv6 address", "2001:db8::7f", "2001:db8::40/122"},
		{"all of both", "0.0.0.0/0,::/0", "10.0.0.0/26 10.0.0.64/26 10.0.1.0/26 10.1.0.0/26 2001:db8::/122 2001:db8::40/122 2001:db8:1::/122"},
	} {
		var want []ipam.Block
		for _, prefix := range strings.Fields(c.want) {
			want = append(want, made[prefix])
		}
		within := set(t, c.within)
		soon(t, c.name, want, sortedBlocks(func() ([]ipam.Block, error) { return w.b.SpaceBlocks(t.Context(), "default", within) }))
	}
	soon(t, "a space without blocks", nil, func() (any, error) {
		blocks, err := w.a.SpaceBlocks(t.Context(), "empty", set(t, "0.0.0.0/0"))
		if len(blocks) == 0 {
			return nil, err
		}
		return blocks, err
	})
}

// claimSets are sets and the claims of theClaims within them.
func claimSets() []struct{ name, within, want string } {
	return []struct{ name, within, want string }{
		{"nothing", "", ""},
		{"one address", "10.0.0.2", "10.0.0.2"},
		{"one that nobody has", "10.0.0.3", ""},
		{"a /24", "10.0.0.0/24", "10.0.0.1 10.0.0.2 10.0.0.255"},
		{"up to the last but one", "10.0.0.2-10.0.0.254", "10.0.0.2"},
		{"all of IPv4", "0.0.0.0/0", "10.0.0.1 10.0.0.2 10.0.0.255 10.0.1.0"},
		{"a range with gaps", "10.0.0.1,10.0.1.0/30", "10.0.0.1 10.0.1.0"},
		{"IPv6", "2001:db8::/64", "2001:db8::1 2001:db8::ffff"},
		{"all of both", "0.0.0.0/0,::/0", "10.0.0.1 10.0.0.2 10.0.0.255 10.0.1.0 2001:db8::1 2001:db8::ffff 2001:db8:1::1"},
	}
}

// theClaims are what claimSets is about, with one of another space.
func theClaims(t *testing.T, s ipam.Store) map[string]ipam.Claim {
	t.Helper()
	k := claimThings()
	made := map[string]ipam.Claim{}
	for n, addr := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.255", "10.0.1.0", "2001:db8::1", "2001:db8::ffff", "2001:db8:1::1"} {
		c := bound(claimAt("default", addr), "n1")
		c.State, c.Keep = []ipam.ClaimState{ipam.Bound, ipam.Cooling, ipam.Kept}[n%3], keeper("k")
		made[addr] = k.made(t, s, c)
	}
	k.made(t, s, bound(claimAt("other", "10.0.0.1"), "n1"))
	return made
}

func spaceClaims(t *testing.T, w pair) {
	made := theClaims(t, w.a)
	for _, c := range claimSets() {
		var want []ipam.Claim
		for _, addr := range strings.Fields(c.want) {
			want = append(want, made[addr])
		}
		got, err := sortedClaims(func() ([]ipam.Claim, error) { return w.b.SpaceClaims(t.Context(), "default", set(t, c.within)) })()
		must(t, err)
		same(t, c.name, want, got)
	}
	must(t, w.a.DeleteClaim(t.Context(), made["10.0.0.2"].Ref, made["10.0.0.2"].Version))
	got, err := w.b.SpaceClaims(t.Context(), "default", set(t, "10.0.0.2"))
	must(t, err)
	same(t, "a deleted one", []ipam.Claim(nil), got)
}

// taken is a hint: of a range of more than 4,096 addresses a store may know
// nothing.
func taken(t *testing.T, w pair) {
	theClaims(t, w.a)
	for _, c := range claimSets() {
		want := map[netip.Addr]bool{}
		for _, addr := range strings.Fields(c.want) {
			want[netip.MustParseAddr(addr)] = true
		}
		within := set(t, c.within)
		soon(t, c.name, want, func() (any, error) {
			got, err := w.b.Taken(t.Context(), "default", within)
			if len(got) == 0 && within.Count().Cmp(iprange.From64(4096)) > 0 {
				return want, err
			}
			return got, err
		})
	}
}
