package agent

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
)

// A block is shared only when each address in it has its claim.
func TestBlockIsSharedAfterItsClaims(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	mine := m.add("c1", "10.0.0.0/16")[0]
	m.add("c2", "10.0.0.0/16")
	c.once(ipamtest.OpCreateClaim, ipamtest.Lost)
	if err := m.Demote(t.Context(), blockAt(mine)); err == nil {
		t.Error("no error")
	}
	if b, _ := c.block(blockAt(mine)); b.Mode != ipam.Leased {
		t.Errorf("the block is %s without all claims", b.Mode)
	}
}

// Calls with one key wait for each other.
func TestCallsWithOneKey(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	r := request(t, "c1", "10.0.0.0/28")
	again := r
	r.ProbeAll, r.Probe = true, func(context.Context, netip.Addr) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := m.Allocate(ctx, again); !errors.Is(err, ipam.ErrNotReady) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ADD in the middle of an ADD: %v", err)
		}
		if err := m.Release(ctx, r.Owner.Key); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("DEL in the middle of an ADD: %v", err)
		}
		return nil
	}
	m.ask(r)
}

// "Returning" is on the disk before the DELETE is sent: who is killed then must
// not use the block before it was touched.
func TestReturningIsLoggedFirst(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	ref := blockAt(m.add("c1", "10.0.0.0/16")[0])
	m.del("c1")
	for _, b := range m.state.blocks {
		b.empty = 1
	}
	c.now += 2 * ipam.DefaultCooldown
	m.add("far", "10.7.0.0/16") // enough is free without it
	c.once(ipamtest.OpDeleteBlock, ipamtest.Late)
	if err := m.GiveBack(t.Context()); err == nil {
		t.Fatal("no error")
	}
	m.start()
	got := m.add("c2", "10.0.0.0/16")[0]
	if err := c.store.ApplyLate(0); ref.Prefix.Contains(got) && err == nil {
		t.Errorf("%s was given in a block that is gone", got)
	}
}

// The same attachment asks for something else: it gets that, and what it had is
// released.
func TestSameKeyOtherRange(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("c1", "10.0.0.0/16")
	other := m.add("c1", "10.5.0.0/28")
	if rg := rangeOf(t, "10.5.0.0/28"); !rg.Usable.Contains(other[0]) {
		t.Errorf("got %s", other[0])
	}
	used := 0
	for _, b := range m.state.blocks {
		used += b.block.Used()
	}
	if used != 0 {
		t.Errorf("%d addresses are still assigned", used)
	}
}

// The claim of a repeated ADD has another keeper by now: the answer of before is
// no answer.
func TestClaimOfAnotherKeeper(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	r := request(t, "vm", "10.0.0.0/28")
	r.Keep = ipam.Keeper{Kind: ipam.KeepClaim, Namespace: "default", Name: "vm", UID: "u1", Network: "lan", IfName: "net1"}
	mine := m.ask(r)[0]
	claim := c.claim(mine.String())
	claim.Keep.UID = "u2"
	if _, err := c.store.UpdateClaim(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	if again := m.ask(r)[0]; again == mine {
		t.Errorf("%s is another's", again)
	}
}

// What was released in an earlier boot doesn't cool by that boot's clock.
func TestCooldownsOfTheLogAfterAReboot(t *testing.T) {
	c := newCluster(t)
	c.now = 1000 * time.Hour
	m := c.node("a")
	ref := blockAt(m.add("c1", "10.0.0.0/16")[0])
	m.del("c1")
	c.now = time.Second
	m.reboot()
	c.now += ipam.DefaultCooldown + time.Second
	if m.resting(m.state.blocks[ref]) {
		t.Error("addresses of the block cool for ever")
	}
}

// A claim that says Cooling stays until the cool-down is over.
func TestClaimRestsAfterItWasTold(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.ask(exact(t, "c1", "10.0.0.5", "10.0.0.0/28"))
	m.del("c1")
	for range 3 {
		c.do(m.Cool)
	}
	if got := c.claim("10.0.0.5"); got.State != ipam.Cooling {
		t.Errorf("the claim is %s", got.State)
	}
}

// Between the look for empty blocks and the return of one, an ADD gets an
// address in it.
func TestReturnLooksAgain(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	for i, cidr := range []string{"10.0.0.0/26", "10.0.1.0/26", "10.0.2.0/26"} {
		r := request(t, string(rune('a'+i)), cidr)
		r.Wants[0].Ranges[0].Space.Mode = ipam.Blocks
		m.ask(r)
		m.del(r.Owner.ContainerID)
	}
	c.now += 2 * ipam.DefaultCooldown
	c.do(m.GiveBack) // the first look
	c.now += 2 * returnAfter
	var all []netip.Prefix
	for ref := range m.state.blocks {
		all = append(all, ref.Prefix)
	}
	c.during(ipamtest.OpDeleteBlock, 1, func() {
		for i, prefix := range all {
			ref := ipam.BlockRef{Space: ipam.DefaultSpace, Prefix: prefix}
			m.mu.Lock()
			b := m.state.blocks[ref]
			ready := b != nil && b.stage == stageReady
			m.mu.Unlock()
			if ready {
				m.ask(exact(t, string(rune('x'+i)), prefix.Addr().Next().String(), prefix.String()))
			}
		}
	})
	c.do(m.GiveBack)
	for key, r := range m.state.records {
		if _, there := c.block(blockAt(r.Places[0].Addr)); !there || !r.Places[0].InBlock {
			t.Errorf("the block of %s was returned: %+v", key, r.Places)
		}
	}
	if len(m.state.records) != 2 {
		t.Errorf("%d addresses were given in the middle", len(m.state.records))
	}
}

// A block that seemed to be nobody's has an owner by now: it is that one's.
func TestBlockThatIsNobodysNoMore(t *testing.T) {
	c := newCluster(t)
	ref := c.takenFromDead("10.0.0.0/26")
	m := c.node("a")
	r := request(t, "c1", "10.0.0.0/26").Wants[0].Ranges[0]
	sp, err := m.space(t.Context(), r.Space)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.look(t.Context(), sp, r); err != nil {
		t.Fatal(err)
	}
	c.node("b").add("b1", "10.0.0.0/26")
	before, _ := c.block(ref)
	if got, err := m.leaseOwnerless(t.Context(), sp, r); got || err != nil {
		t.Errorf("leased: %t, %v", got, err)
	}
	if now, _ := c.block(ref); now != before || now.Owner != c.nodes["b"].Node() {
		t.Errorf("the block became %+v", now)
	}
}

// A node leases no more blocks than the space says; the rest are claims.
func TestMostBlocksOfANode(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	for i := range 70 {
		r := request(t, string(rune('a'+i)), "10.0.0.0/16")
		r.Wants[0].Ranges[0].Space.MaxBlocks = 1
		m.ask(r)
	}
	if n := m.blockCount(ipam.DefaultSpace); n != 1 {
		t.Errorf("%d blocks", n)
	}
}

// A restart from a snapshot knows what the agent knew.
func TestSnapshotKeepsAll(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.ask(exact(t, "c1", "10.0.0.5", "10.0.0.0/28"))
	m.ask(exact(t, "c2", "10.0.0.6", "10.0.0.0/28"))
	m.add("c3", "10.5.0.0/16")
	m.del("c2")
	before := m.state
	shorten(t, m)
	m.start()
	if diff := cmp.Diff(before.owners, m.state.owners, cmpopts.EquateComparable(ipam.ClaimRef{})); diff != "" || len(before.owners) != 1 {
		t.Errorf("owners (-was +is):\n%s", diff)
	}
	for ref, was := range before.cooling {
		is := m.state.cooling[ref]
		if is == nil || is.owner != was.owner || is.version != was.version || is.keep != was.keep || is.due != was.due {
			t.Errorf("%s: %+v became %+v", ref, was, is)
		}
	}
}
