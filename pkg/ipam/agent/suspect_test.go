package agent

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// asking is a request that notes what the wire was asked for.
func asking(t testing.TB, container string, asked *[]netip.Addr, ranges ...string) ipam.Request {
	t.Helper()
	r := request(t, container, ranges...)
	r.Probe = func(_ context.Context, a netip.Addr) error {
		*asked = append(*asked, a)
		return nil
	}
	return r
}

// takenFromDead makes the only block of a range one that was taken from a dead
// node.
func (c *cluster) takenFromDead(cidr string) ipam.BlockRef {
	c.t.Helper()
	rg := rangeOf(c.t, cidr)
	rg.Space.Mode = ipam.Blocks
	if _, err := c.store.Space(c.ctx(), rg.Space); err != nil {
		c.t.Fatal(err)
	}
	ref := ipam.BlockRef{Space: rg.Space.Name, Prefix: rg.Space.Grid.Block(rg.Subnet.Addr())}
	if _, err := c.store.CreateBlock(c.ctx(), ipam.Block{Ref: ref, Mode: ipam.Leased, Suspect: true}); err != nil {
		c.t.Fatal(err)
	}
	return ref
}

// Each address of a block that a dead node had is asked for once, by whatever
// way the block comes to us.
func TestSuspectBlock(t *testing.T) {
	c := newCluster(t)
	ref := c.takenFromDead("10.0.0.0/26")
	m := c.node("a")
	var asked []netip.Addr
	first := m.ask(asking(t, "c1", &asked, "10.0.0.0/26"))
	m.start()
	second := m.ask(asking(t, "c2", &asked, "10.0.0.0/26"))
	shorten(t, m)
	m.start()
	third := m.ask(asking(t, "c3", &asked, "10.0.0.0/26"))
	m.reboot()
	c.settle(1)
	fourth := m.ask(asking(t, "c4", &asked, "10.0.0.0/26"))
	if want := slices.Concat(first, second, third, fourth); !slices.Equal(asked, want) {
		t.Errorf("asked for %v, given %v", asked, want)
	}
	if err := m.Demote(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	asked = nil
	if got := c.node("b").ask(asking(t, "c5", &asked, "10.0.0.0/26")); !slices.Equal(asked, got) {
		t.Errorf("in the shared block: asked for %v, given %v", asked, got)
	}
}

// An empty suspect block is given back as what it was.
func TestSuspectBlockStaysSuspect(t *testing.T) {
	c := newCluster(t)
	ref := c.takenFromDead("10.0.0.0/26")
	m := c.node("a")
	m.add("c1", "10.0.0.0/26")
	m.del("c1")
	c.now += 2 * ipam.DefaultCooldown
	m.state.blocks[ref].stage = stageReturning
	if err := m.GiveBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := c.store.GetBlock(t.Context(), ref)
	got.Version = ipam.Version{}
	if diff := cmp.Diff(ipam.Block{Ref: ref, Mode: ipam.Leased, Suspect: true}, got, cmp.Comparer(func(x, y netip.Prefix) bool { return x == y })); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// A claim of a dead node stays suspect until the wire was asked.
func TestSuspectClaim(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.ask(exact(t, "c1", "10.0.0.5", "10.0.0.0/28"))
	dead := c.claim("10.0.0.5")
	dead.State, dead.Node, dead.Suspect = ipam.Cooling, ipam.Node{}, true
	if _, err := c.store.UpdateClaim(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	b := c.node("b")
	var asked []netip.Addr
	r := asking(t, "c2", &asked, "10.0.0.0/28")
	r.Wants[0].Addr = addr("10.0.0.5")
	b.ask(r)
	if !slices.Equal(asked, []netip.Addr{addr("10.0.0.5")}) {
		t.Errorf("asked for %v", asked)
	}
}

// A dead node had half shared its block: the claims that it made don't keep the
// next node from sharing it.
func TestDemotionMeetsClaimsOfADeadNode(t *testing.T) {
	c := newCluster(t)
	ref := c.takenFromDead("10.0.0.0/26")
	m := c.node("a")
	mine := m.add("c1", "10.0.0.0/26")[0]
	if _, err := c.store.CreateClaim(t.Context(), ipam.Claim{
		Ref: ipam.ClaimRef{Space: ref.Space, Addr: mine}, State: ipam.Cooling, Owner: request(t, "dead").Owner, Suspect: true,
	}); err != nil {
		t.Fatal(err)
	}
	if err := m.Demote(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if got := c.claim(mine.String()); got.State != ipam.Bound || got.Owner.ContainerID != "c1" {
		t.Errorf("the claim: %+v", got)
	}
	if len(m.alarms) > 0 {
		t.Errorf("alarms: %+v", m.alarms)
	}
}

// A kept address that a station answers for is not given, and stays kept; a new
// one that a station answers for isn't kept.
func TestConflictOfAKeptAddress(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	busy := map[netip.Addr]bool{}
	ask := func(container string) ipam.Request {
		r := request(t, container, "10.0.0.0/28")
		r.Keep = ipam.Keeper{Kind: ipam.KeepPod, Namespace: "default", Name: "web-0", Network: "lan", IfName: "net1"}
		r.ProbeAll, r.Probe = true, func(_ context.Context, a netip.Addr) error {
			if was, known := busy[a]; was || !known && len(busy) == 0 {
				busy[a] = true
				return ipam.ErrConflict
			}
			busy[a] = false
			return nil
		}
		return r
	}
	first := m.ask(ask("c1"))[0]
	m.del("c1")
	for range 3 {
		c.now += 2 * ipam.DefaultCooldown
		c.settle(1)
	}
	kept, err := c.store.KeptClaims(t.Context(), ask("").Keep)
	if err != nil || len(kept) != 1 || kept[0].Ref.Addr != first {
		t.Fatalf("kept: %+v, %v; want %s alone", kept, err, first)
	}
	busy[first] = true
	if got, err := m.Allocate(t.Context(), ask("c2")); err == nil {
		t.Fatalf("got %v while a station answers for %s", got, first)
	}
	busy[first], m.dead["c2"] = false, true
	c.settle(1)
	if got := m.ask(ask("c3")); got[0] != first {
		t.Errorf("got %s instead of %s", got[0], first)
	}
	c.settle(3)
	if got := c.claim(first.String()); got.State != ipam.Bound {
		t.Errorf("the claim of a living sandbox is %s", got.State)
	}
}
