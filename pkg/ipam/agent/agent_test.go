package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestSecondAddressNeedsNoStore(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	first := m.add("c1", "10.0.0.0/16")
	before := c.store.Counts()
	second := m.add("c2", "10.0.0.0/16")
	m.del("c1")
	if diff := cmp.Diff(before, c.store.Counts()); diff != "" {
		t.Errorf("the store was called (-before +after):\n%s", diff)
	}
	if first[0] == second[0] {
		t.Errorf("both got %s", first[0])
	}
}

func TestRepeatedADDGetsTheSame(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	want := m.add("c1", "10.0.0.0/16", "2001:db8::/64")
	if got := m.add("c1", "10.0.0.0/16", "2001:db8::/64"); !slices.Equal(got, want) {
		t.Errorf("the second ADD got %v, the first %v", got, want)
	}
	m.start()
	if got := m.add("c1", "10.0.0.0/16", "2001:db8::/64"); !slices.Equal(got, want) {
		t.Errorf("after a restart: %v, before %v", got, want)
	}
	if got := m.Held(request(t, "c1").Owner.Key); !slices.Equal(got, want) {
		t.Errorf("Held is %v", got)
	}
}

func TestTwoRangesOfOneSubnetGiveTwoAddresses(t *testing.T) {
	c := newCluster(t)
	got := c.node("a").add("c1", "10.0.0.0/30", "10.0.0.0/30")
	if got[0] == got[1] {
		t.Errorf("both are %s", got[0])
	}
}

func TestAllOrNothing(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("full", "10.9.9.9/32")
	r := request(t, "c1", "10.0.0.0/16", "192.168.7.0/28", "10.9.9.9/32")
	_, err := m.Allocate(t.Context(), r)
	if !errors.Is(err, ipam.ErrExhausted) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"pool test", "10.9.9.9/32", "1 usable", "1 claimed", "namespace default: 1"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if got := m.Held(r.Owner.Key); got != nil {
		t.Errorf("still held: %v", got)
	}
	c.settle(1)
	c.now += 2 * ipam.DefaultCooldown
	c.settle(2)
	claims, err := c.store.SpaceClaims(t.Context(), "default", iprange.SetOf(iprange.OfPrefix(netip.MustParsePrefix("192.168.7.0/28"))))
	if err != nil || len(claims) != 0 {
		t.Errorf("claims are left: %v, %v", claims, err)
	}
}

func TestReleasedAddressRestsAndOldestIsNext(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	seen := map[netip.Addr]bool{}
	for i := range 62 {
		seen[m.add(fmt.Sprint("c", i), "10.0.0.0/26")[0]] = true
	}
	if len(seen) != 62 {
		t.Fatalf("%d addresses of 62", len(seen))
	}
}

func TestCooldownInOwnBlock(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	first := m.add("c0", "10.0.0.0/16")[0]
	m.del("c0")
	for i := range 20 {
		if got := m.add(fmt.Sprint("d", i), "10.0.0.0/16")[0]; got == first {
			t.Fatalf("%s was given again at once", first)
		}
	}
	c.now += ipam.DefaultCooldown
	for i := range 100 { // the rest of the first block, and the one that comes next
		if m.add(fmt.Sprint("e", i), "10.0.0.0/16")[0] == first {
			return
		}
		c.settle(1)
	}
	t.Errorf("%s is never used again", first)
}

func TestSmallRangeSharedByManyNodes(t *testing.T) {
	c := newCluster(t)
	got := map[netip.Addr]string{}
	for i := range 14 {
		node := fmt.Sprint("node", i%7)
		a := c.node(node).add(fmt.Sprint("c", i), "10.0.0.0/28")[0]
		if other := got[a]; other != "" {
			t.Fatalf("%s was given to %s and c%d", a, other, i)
		}
		got[a] = fmt.Sprint("c", i)
	}
	m := c.node("node9")
	if _, err := m.Allocate(t.Context(), request(t, "late", "10.0.0.0/28")); !errors.Is(err, ipam.ErrExhausted) {
		t.Fatalf("the 15th got %v", err)
	}
	c.node("node3").del("c3")
	c.settle(1) // node3 says that the address cools
	if a := m.add("late", "10.0.0.0/28")[0]; got[a] != "c3" {
		t.Errorf("%s was taken from %s, which lives", a, got[a])
	}
	c.settle(3)
	if held := m.Held(request(t, "late").Owner.Key); len(held) != 1 {
		t.Errorf("late has %v", held)
	}
}

// A block is leased while there are few nodes; when the range is full, its
// node shares it.
func TestFreeAddressInAnothersBlockIsReached(t *testing.T) {
	c := newCluster(t)
	a, b := c.node("a"), c.node("b")
	a.add("a1", "10.0.0.0/24")
	b.add("b1", "10.0.0.0/24")
	seen := map[netip.Addr]bool{}
	stop := background(t, c)
	defer stop()
	for i := range 252 {
		got := b.add(fmt.Sprint("x", i), "10.0.0.0/24")[0]
		if seen[got] {
			t.Fatalf("%s twice", got)
		}
		seen[got] = true
	}
	if _, err := a.Allocate(t.Context(), request(t, "late", "10.0.0.0/24")); !errors.Is(err, ipam.ErrExhausted) {
		t.Errorf("the 255th got %v", err)
	}
}

// background answers requests for blocks while the test allocates.
func background(t *testing.T, c *cluster) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			for _, m := range c.nodes {
				_ = m.Answer(ctx)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	return func() { cancel(); <-ended }
}

func TestWantedAddress(t *testing.T) {
	c := newCluster(t)
	a, b := c.node("a"), c.node("b")
	want := func(container, address string, cidr string) ipam.Request {
		r := request(t, container, cidr)
		r.Wants[0].Addr = addr(address)
		return r
	}
	if got := a.ask(want("s1", "10.0.0.7", "10.0.0.0/28"))[0]; got != addr("10.0.0.7") {
		t.Errorf("got %s", got)
	}
	_, err := b.Allocate(t.Context(), want("s2", "10.0.0.7", "10.0.0.0/28"))
	if !errors.Is(err, ipam.ErrTaken) || !strings.Contains(err.Error(), "pod default/pod-s1 on node a") {
		t.Errorf("got %v", err)
	}
	// In an own block, and in another's, which is shared for it.
	inBlock := a.add("c1", "10.1.0.0/16")[0]
	free := inBlock.Next()
	if got := a.ask(want("s3", free.String(), "10.1.0.0/16"))[0]; got != free {
		t.Errorf("got %s", got)
	}
	if _, err := a.Allocate(t.Context(), want("s4", free.String(), "10.1.0.0/16")); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("got %v", err)
	}
	stop := background(t, c)
	defer stop()
	further := free.Next()
	if got := b.ask(want("s5", further.String(), "10.1.0.0/16"))[0]; got != further {
		t.Errorf("got %s", got)
	}
	if _, err := b.Allocate(t.Context(), want("s6", inBlock.String(), "10.1.0.0/16")); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("an address that was in use when its block was shared: %v", err)
	}
}

func TestAddressKeptForPod(t *testing.T) {
	c := newCluster(t)
	keep := ipam.Keeper{Kind: ipam.KeepPod, Namespace: "default", Name: "web-0", Network: "lan", IfName: "net1"}
	ask := func(container string) ipam.Request {
		r := request(t, container, "10.0.0.0/24")
		r.Keep = keep
		return r
	}
	first := c.node("a").ask(ask("c1"))
	if _, err := c.node("b").Allocate(t.Context(), ask("c2")); !errors.Is(err, ipam.ErrNotReady) {
		t.Errorf("while the first sandbox lives: %v", err)
	}
	c.node("a").del("c1")
	c.settle(2)
	for i := range 30 {
		if got := c.node("b").add(fmt.Sprint("x", i), "10.0.0.0/24"); got[0] == first[0] {
			t.Fatalf("%s was given to another", got[0])
		}
	}
	if got := c.node("b").ask(ask("c2")); !slices.Equal(got, first) {
		t.Errorf("the next pod got %v, want %v", got, first)
	}
}

func TestAddressOfIPAMClaimMoves(t *testing.T) {
	c := newCluster(t)
	ask := func(container string) ipam.Request {
		r := request(t, container, "10.0.0.0/24")
		r.Keep = ipam.Keeper{Kind: ipam.KeepClaim, Namespace: "default", Name: "vm", UID: "u1", Network: "lan", IfName: "net1"}
		return r
	}
	first := c.node("a").ask(ask("source"))
	second := c.node("b").ask(ask("target"))
	if !slices.Equal(first, second) {
		t.Errorf("the target got %v, the source %v", second, first)
	}
	c.node("a").del("source")
	c.now += 2 * ipam.DefaultCooldown
	c.settle(2)
	c.node("b").del("target")
	c.now += 2 * ipam.DefaultCooldown
	c.settle(2)
	if third := c.node("a").ask(ask("again")); !slices.Equal(first, third) {
		t.Errorf("after all were gone: %v, want %v", third, first)
	}
}

func TestReboot(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("c1", "10.0.0.0/16")
	m.add("c2", "10.5.0.0/28")
	m.reboot()
	if _, ok := m.fromBlocks(&task{req: request(t, "x", "10.0.0.0/16"), tried: map[ipam.ClaimRef]bool{}}, ipam.Space{Name: "default"}, rangeOf(t, "10.0.0.0/16")); ok {
		t.Error("a block of the last boot was used before it was taken back")
	}
	c.now += 2 * ipam.DefaultCooldown
	c.settle(3)
	blocks, err := c.store.NodeBlocks(t.Context(), "a")
	if err != nil || len(blocks) != 1 || blocks[0].Owner != m.Node() {
		t.Errorf("blocks: %+v, %v; node %+v", blocks, err, m.Node())
	}
	claims, err := c.store.NodeClaims(t.Context(), "a")
	if err != nil || len(claims) != 0 {
		t.Errorf("claims: %+v, %v", claims, err)
	}
	m.add("c3", "10.0.0.0/16")
}

func TestLostLogLeavesBlocksAlone(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	used := m.add("c1", "10.0.0.0/16")[0]
	claimed := m.add("c2", "10.5.0.0/28")[0]
	m.disk = &memory{}
	m.start()
	c.now += 2 * ipam.DefaultCooldown
	c.settle(3)
	for i := range 70 {
		got := m.add(fmt.Sprint("n", i), "10.0.0.0/16")[0]
		if got == used {
			t.Fatalf("%s is in use", got)
		}
	}
	if c, err := c.store.GetClaim(t.Context(), ipam.ClaimRef{Space: "default", Addr: claimed}); err != nil || c.State != ipam.Bound {
		t.Errorf("claim of a living sandbox: %+v, %v", c, err)
	}
	m.boot++
	m.start()
	c.settle(2)
	if blocks, err := c.store.NodeBlocks(t.Context(), "a"); err != nil || slices.ContainsFunc(blocks, func(b ipam.Block) bool { return b.Owner != m.Node() }) {
		t.Errorf("after the next boot: %+v, %v", blocks, err)
	}
}

// A block was to be shared once, and wasn't: the claim that was made then for a
// pod that has gone since is no duplicate of the pod that has its address now.
func TestSecondTryToShareABlock(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	first := m.add("old", "10.0.0.0/16")[0]
	ref := ipam.ClaimRef{Space: "default", Addr: first}
	if _, err := c.store.CreateClaim(t.Context(), ipam.Claim{Ref: ref, State: ipam.Bound, Node: m.Node(), Owner: request(t, "old").Owner}); err != nil {
		t.Fatal(err)
	}
	m.del("old")
	c.now += 2 * ipam.DefaultCooldown
	r := request(t, "new", "10.0.0.0/16")
	r.Wants[0].Addr = first
	m.ask(r)
	if err := m.Demote(t.Context(), ipam.BlockRef{Space: "default", Prefix: iprange.DefaultGrid().Block(first)}); err != nil {
		t.Error(err)
	}
	if len(m.alarms) > 0 {
		t.Errorf("alarms: %+v", m.alarms)
	}
	if claim, err := c.store.GetClaim(t.Context(), ref); err != nil || claim.Owner.ContainerID != "new" {
		t.Errorf("claim: %+v, %v", claim, err)
	}
}

func TestEmptyBlockIsReturned(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	for i := range 130 {
		m.add(fmt.Sprint("c", i), "10.0.0.0/16")
		c.settle(1)
	}
	for i := range 130 {
		m.del(fmt.Sprint("c", i))
	}
	for range 6 {
		c.now += time.Minute
		c.settle(1)
	}
	blocks, err := c.store.NodeBlocks(t.Context(), "a")
	if err != nil || len(blocks) != 1 {
		t.Errorf("%d blocks are left, want one: %v", len(blocks), err)
	}
}

func TestSweepReleasesDeadSandboxes(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("lives", "10.0.0.0/16")
	m.add("dies", "10.0.0.0/16")
	m.dead["dies"] = true
	c.settle(2)
	if len(m.Held(request(t, "dies").Owner.Key)) == 0 {
		t.Error("released at the first look")
	}
	c.now += deadAfter
	c.settle(1)
	if len(m.Held(request(t, "dies").Owner.Key)) != 0 || len(m.Held(request(t, "lives").Owner.Key)) == 0 {
		t.Error("the wrong sandbox was released")
	}
}

func TestImportedClaimIsAdopted(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	ref := ipam.ClaimRef{Space: "default", Addr: addr("10.0.0.5")}
	rg := rangeOf(t, "10.0.0.0/28")
	if _, err := c.store.Space(t.Context(), rg.Space); err != nil {
		t.Fatal(err)
	}
	if _, err := c.store.CreateBlock(t.Context(), ipam.Block{Ref: ipam.BlockRef{Space: "default", Prefix: rg.Space.Grid.Block(ref.Addr)}, Mode: ipam.Shared}); err != nil {
		t.Fatal(err)
	}
	owner := request(t, "old").Owner
	if _, err := c.store.CreateClaim(t.Context(), ipam.Claim{Ref: ref, State: ipam.Bound, Node: ipam.Node{Name: "a"}, Owner: owner}); err != nil {
		t.Fatal(err)
	}
	c.settle(1)
	if got := m.Held(owner.Key); !slices.Equal(got, []netip.Addr{ref.Addr}) {
		t.Fatalf("held: %v", got)
	}
	m.start()
	c.now += 2 * ipam.DefaultCooldown
	c.settle(2)
	if _, err := c.store.GetClaim(t.Context(), ref); err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	m.del("old")
	c.settle(1)
	c.now += 2 * ipam.DefaultCooldown
	c.settle(2)
	if _, err := c.store.GetClaim(t.Context(), ref); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("after its DEL: %v", err)
	}
}

// A DEL finds an imported claim that doesn't know its interface and network.
func TestImportedClaimWithoutNames(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	rg := rangeOf(t, "10.0.0.0/28")
	ref := ipam.ClaimRef{Space: "default", Addr: addr("10.0.0.5")}
	m.ask(exact(t, "x", "10.0.0.9", "10.0.0.0/28")) // makes the space and the block
	owner := request(t, "old").Owner
	owner.IfName, owner.Network = ipam.Unknown, ipam.Unknown
	if _, err := c.store.CreateClaim(t.Context(), ipam.Claim{Ref: ref, State: ipam.Bound, Node: ipam.Node{Name: "a"}, Owner: owner, Pool: rg.Pool}); err != nil {
		t.Fatal(err)
	}
	c.settle(1)
	m.start()
	m.del("other")
	if len(m.Held(owner.Key)) != 1 {
		t.Fatal("another's DEL released it")
	}
	m.del("old")
	if len(m.Held(owner.Key)) != 0 {
		t.Error("its DEL didn't release it")
	}
}

func TestProbe(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	r := request(t, "c1", "10.0.0.0/16")
	var asked []netip.Addr
	r.ProbeAll = true
	r.Probe = func(_ context.Context, a netip.Addr) error {
		if asked = append(asked, a); len(asked) == 1 {
			return fmt.Errorf("%w: 02:00:00:00:00:01 answers for %s", ipam.ErrConflict, a)
		}
		return nil
	}
	got := m.ask(r)[0]
	if len(asked) != 2 || got != asked[1] || asked[0] == asked[1] {
		t.Errorf("asked for %v, got %s", asked, got)
	}
	if len(m.alarms) != 1 || m.alarms[0].Reason != "AddressInUse" {
		t.Errorf("alarms: %+v", m.alarms)
	}
	if next := m.add("c2", "10.0.0.0/16")[0]; next == asked[0] {
		t.Errorf("%s is in use on the wire and was given away", next)
	}
	r = request(t, "c3", "10.0.0.0/16")
	r.ProbeAll, r.Probe = true, func(_ context.Context, a netip.Addr) error { return fmt.Errorf("%w: %s", ipam.ErrConflict, a) }
	if _, err := m.Allocate(t.Context(), r); !errors.Is(err, ipam.ErrConflict) {
		t.Errorf("got %v", err)
	}
	if m.Held(r.Owner.Key) != nil {
		t.Error("an address that is in use was granted")
	}
}

func TestInvalidRequests(t *testing.T) {
	good := request(t, "c", "10.0.0.0/24")
	for name, change := range map[string]func(*ipam.Request){
		"no container": func(r *ipam.Request) { r.Owner.ContainerID = "" },
		"no wants":     func(r *ipam.Request) { r.Wants = nil },
		"no range":     func(r *ipam.Request) { r.Wants = []ipam.Want{{}} },
		"space":        func(r *ipam.Request) { r.Wants[0].Ranges[0].Space.Name = "A_b" },
		"grid":         func(r *ipam.Request) { r.Wants[0].Ranges[0].Space.Grid.V4 = 20 },
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			r.Wants = []ipam.Want{{Ranges: slices.Clone(good.Wants[0].Ranges)}}
			change(&r)
			if _, err := newCluster(t).node("a").Allocate(t.Context(), r); !errors.Is(err, ipam.ErrInvalid) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestFullDisk(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("c1", "10.0.0.0/16")
	m.disk.full = true
	if _, err := m.Allocate(t.Context(), request(t, "c2", "10.0.0.0/16")); !errors.Is(err, ipam.ErrNotReady) {
		t.Errorf("ADD: %v", err)
	}
	m.del("c1")
	m.disk.full = false
	m.add("c2", "10.0.0.0/16")
}
