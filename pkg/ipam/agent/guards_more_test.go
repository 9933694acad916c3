package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
)

// Touch before an IPAMClaim's address is joined: its DELETE may be on its way.
func TestJoinedClaimIsTouched(t *testing.T) {
	c := newCluster(t)
	ask := func(container string) ipam.Request {
		r := request(t, container, "10.0.0.0/28")
		r.Keep = ipam.Keeper{Kind: ipam.KeepClaim, Namespace: "default", Name: "vm", UID: "u1", Network: "lan", IfName: "net1"}
		return r
	}
	claim := c.claim(c.node("a").ask(ask("source"))[0].String())
	c.once(ipamtest.OpDeleteClaim, ipamtest.Late)
	if err := c.store.DeleteClaim(t.Context(), claim.Ref, claim.Version); err == nil {
		t.Fatal("no error")
	}
	c.node("b").ask(ask("target"))
	c.lateIsStale()
}

// Where Whereabouts allocates too, no block is leased.
func TestSpaceBesideWhereabouts(t *testing.T) {
	c := newCluster(t)
	r := request(t, "c1", "10.0.0.0/16")
	r.Wants[0].Ranges[0].Space.Whereabouts = true
	c.node("a").ask(r)
	blocks, claims := c.store.All()
	if len(blocks) != 1 || blocks[0].Mode != ipam.Shared || len(claims) != 1 {
		t.Errorf("blocks %+v, claims %+v", blocks, claims)
	}
}

// A block without a clear outcome is looked for.
func TestLeaseWithoutReply(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	c.once(ipamtest.OpCreateBlock, ipamtest.Unanswered)
	if _, err := m.Allocate(t.Context(), request(t, "c1", "10.0.0.0/16")); !errors.Is(err, ipam.ErrNotReady) || !m.scanWanted() {
		t.Fatalf("%v; a scan is wanted: %t", err, m.scanWanted())
	}
	c.do(m.Scan)
	before := c.store.Writes()
	m.add("c1", "10.0.0.0/16")
	if c.store.Writes() != before {
		t.Error("another block was leased")
	}
}

// Somebody made the block Shared behind our back: what lives in it gets claims.
func TestBlockThatBecameShared(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	mine := m.add("c1", "10.0.0.0/16")[0]
	b, _ := c.block(blockAt(mine))
	b.Mode, b.Owner = ipam.Shared, ipam.Node{}
	if _, err := c.store.UpdateBlock(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	c.do(m.Scan)
	if got := c.claim(mine.String()); got.Owner.ContainerID != "c1" || got.State != ipam.Bound {
		t.Errorf("the claim: %+v", got)
	}
	if m.blockCount(ipam.DefaultSpace) != 0 {
		t.Error("the block is still in use")
	}
}

// A block that is being shared isn't taken into use by a scan, though its object
// has to be written anew.
func TestScanLeavesABlockThatIsBeingShared(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	ref := blockAt(m.add("c1", "10.0.0.0/16")[0])
	halfShared(t, c, m, ref)
	if err := m.Registered("another"); err != nil {
		t.Fatal(err)
	}
	c.do(m.Scan)
	if got := m.state.blocks[ref].stage; got != stageReturning {
		t.Errorf("the block is %s", got)
	}
	c.do(m.Resume)
	if b, _ := c.block(ref); b.Owner != m.Node() {
		t.Errorf("in the end: %+v", b)
	}
}

// Two looks that find a sandbox gone count only if none in between finds it.
func TestSweepNeedsTwoLooks(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("c1", "10.0.0.0/16")
	for _, dead := range []bool{true, false, true} {
		m.dead["c1"] = dead
		c.do(m.Sweep)
		c.now += 2 * deadAfter
	}
	if m.Held(request(t, "c1").Owner.Key) == nil {
		t.Error("it was released after one look")
	}
	c.do(m.Sweep)
	if m.Held(request(t, "c1").Owner.Key) != nil {
		t.Error("it wasn't released after two looks")
	}
}

// The lowest address of all blocks is next where the order says so.
func TestLowestOverBlocks(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	ask := func(i int) ipam.Request {
		r := request(t, fmt.Sprint("c", i), "10.0.0.0/16")
		r.Order = ipam.Lowest
		return r
	}
	lowest := m.ask(ask(0))[0]
	for i := range 150 {
		if got := m.ask(ask(i + 1))[0]; got.Less(lowest) {
			lowest = got
		}
	}
	for key, r := range m.state.records {
		if r.Places[0].Addr == lowest {
			m.del(key.ContainerID)
		}
	}
	c.now += 2 * ipam.DefaultCooldown
	if got := m.ask(ask(1000))[0]; got != lowest {
		t.Errorf("got %s, not %s", got, lowest)
	}
}

// A full range's last address cools: it is given again when its sandbox is gone,
// not before.
func TestCoolingAddressOfAFullBlock(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	ask := func(container string) ipam.Request {
		r := request(t, container, "10.0.0.0/26")
		r.Wants[0].Ranges[0].Space.Mode = ipam.Blocks
		return r
	}
	for i := range 62 {
		m.ask(ask(fmt.Sprint("c", i)))
	}
	if err := m.Release(t.Context(), ask("c7").Owner.Key); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if got, err := m.Allocate(ctx, ask("x")); err == nil {
		t.Errorf("got %v while its sandbox is there", got)
	}
	m.dead["c7"] = true
	m.ask(ask("x"))
}

// After a reboot the clock begins anew, and so do cool-downs, also those of a
// snapshot.
func TestCooldownsAfterAReboot(t *testing.T) {
	c := newCluster(t)
	c.now = 1000 * time.Hour
	m := c.node("a")
	ref := blockAt(m.add("c1", "10.0.0.0/16")[0])
	m.del("c1")
	m.ask(exact(t, "c2", "10.9.0.3", "10.9.0.0/28"))
	m.del("c2")
	shorten(t, m)
	c.now = time.Second
	m.reboot()
	c.now += ipam.DefaultCooldown + time.Second
	if m.resting(m.state.blocks[ref]) {
		t.Error("addresses of the block cool for ever")
	}
	for _, k := range m.state.cooling {
		if k.due > c.now {
			t.Errorf("a claim cools until %s", k.due)
		}
	}
}
