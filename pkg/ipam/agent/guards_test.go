package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
)

// Each test here takes one guard of the protocol to the moment for which it is
// there. The model says what happens without it (package ipam/model).

// once gives the next request of that kind an outcome.
func (c *cluster) once(op ipamtest.Op, outcome ipamtest.Outcome) {
	c.store.SetFaults(func(call ipamtest.Call) (ipamtest.Outcome, error) {
		if call.Op != op {
			return ipamtest.Done, nil
		}
		op = ""
		return outcome, nil
	})
}

func (c *cluster) do(work func(context.Context) error) {
	c.t.Helper()
	if err := work(c.ctx()); err != nil {
		c.t.Fatal(err)
	}
}

// lateIsStale applies the request that is still on its way: it must be refused.
func (c *cluster) lateIsStale() {
	c.t.Helper()
	if n := len(c.store.Waiting()); n != 1 {
		c.t.Fatalf("%d requests wait", n)
	}
	if err := c.store.ApplyLate(0); !errors.Is(err, ipam.ErrStale) {
		c.t.Errorf("a late request hit what is in use: %v", err)
	}
}

func (c *cluster) block(ref ipam.BlockRef) (ipam.Block, bool) {
	c.t.Helper()
	b, err := c.store.GetBlock(c.ctx(), ref)
	if err != nil && !errors.Is(err, ipam.ErrNotFound) {
		c.t.Fatal(err)
	}
	return b, err == nil
}

// blockAt is the /26 of an address in the default space.
func blockAt(address netip.Addr) ipam.BlockRef {
	return ipam.BlockRef{Space: ipam.DefaultSpace, Prefix: netip.PrefixFrom(address, 26).Masked()}
}

// Touch before an own claim is adopted: its DELETE may be on its way.
func TestAdoptedClaimIsTouched(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	ask := exact(t, "c1", "10.0.0.5", "10.0.0.0/28")
	c.once(ipamtest.OpCreateClaim, ipamtest.Unanswered)
	if _, err := m.Allocate(t.Context(), ask); !errors.Is(err, ipam.ErrNotReady) || !m.scanWanted() {
		t.Fatalf("%v; a scan is wanted: %t", err, m.scanWanted())
	}
	m.dead["c1"] = true
	c.do(m.Scan)
	c.now += 2 * ipam.DefaultCooldown
	c.once(ipamtest.OpDeleteClaim, ipamtest.Late)
	if err := m.Cool(t.Context()); err == nil {
		t.Fatal("no error")
	}
	m.ask(ask)
	c.lateIsStale()
}

// A claim that cools is not adopted as one in use, but taken over.
func TestCoolingClaimOfTheSameKey(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	ask := exact(t, "c1", "10.0.0.5", "10.0.0.0/28")
	m.ask(ask)
	m.del("c1")
	c.do(m.Cool)
	if got := c.claim("10.0.0.5"); got.State != ipam.Cooling {
		t.Fatalf("the claim is %s", got.State)
	}
	m.ask(ask)
	if got := c.claim("10.0.0.5"); got.State != ipam.Bound {
		t.Errorf("the claim of a living sandbox is %s", got.State)
	}
}

// A claim in a leased block protects nobody from the block's node.
func TestClaimInALeasedBlockIsNotTakenOver(t *testing.T) {
	c := newCluster(t)
	a, b := c.node("a"), c.node("b")
	mine := a.add("c1", "10.0.0.0/24")[0]
	rest, err := c.store.CreateClaim(t.Context(), ipam.Claim{
		Ref: ipam.ClaimRef{Space: ipam.DefaultSpace, Addr: mine.Next()}, State: ipam.Cooling, Node: a.Node(), Owner: request(t, "old").Owner,
	})
	if err != nil {
		t.Fatal(err)
	}
	r := request(t, "c2", "10.0.0.0/24")
	_, err = b.takeOver(t.Context(), &task{req: r, key: r.Owner.Key, tried: map[ipam.ClaimRef]bool{}}, rest, r.Wants[0].Ranges[0])
	if !errors.Is(err, errRefused) {
		t.Errorf("got %v", err)
	}
}

// An ADD has touched the claim and not granted it yet, while it is to be given
// up: its intent protects it.
func TestIntentProtectsAClaimUnderWay(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.ask(exact(t, "c1", "10.0.0.5", "10.0.0.0/28"))
	m.del("c1")
	again := exact(t, "c1", "10.0.0.5", "10.0.0.0/28")
	touched, proceed, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	again.ProbeAll, again.Probe = true, func(context.Context, netip.Addr) error {
		close(touched)
		<-proceed
		return nil
	}
	c.during(ipamtest.OpGetClaim, 1, func() {
		go func() {
			_, err := m.Allocate(t.Context(), again)
			ended <- err
		}()
		<-touched
	})
	c.do(m.Cool)
	close(proceed)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got := c.claim("10.0.0.5"); got.State != ipam.Bound {
		t.Errorf("the claim of a living sandbox is %s", got.State)
	}
}

// An address that one ADD has chosen and not granted yet is no other's.
func TestReservedAddress(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	first := m.add("c0", "10.0.0.0/16")[0]
	for _, r := range []ipam.Request{exact(t, "c1", first.Next().String(), "10.0.0.0/16"), request(t, "c2", "10.0.0.0/16")} {
		r.Order, r.ProbeAll = ipam.Lowest, true
		r.Probe = func(_ context.Context, chosen netip.Addr) error {
			name := r.Owner.ContainerID
			if _, err := m.Allocate(t.Context(), exact(t, name+"x", chosen.String(), "10.0.0.0/16")); !errors.Is(err, ipam.ErrTaken) {
				t.Errorf("%s by name: %v", chosen, err)
			}
			for _, order := range []ipam.Order{ipam.Lowest, ipam.FIFO} {
				other := request(t, name+string(order), "10.0.0.0/16")
				other.Order = order
				if got := m.ask(other)[0]; got == chosen {
					t.Errorf("%s was given twice", got)
				}
			}
			return nil
		}
		m.ask(r)
	}
}

// Nothing is granted in a block that is being shared, wherever its ADD was.
func TestNothingIsGrantedInABlockThatIsBeingShared(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	ref := blockAt(m.add("c0", "10.0.0.0/16")[0])
	reached, ended := make(chan struct{}), make(chan error, 1)
	c.during(ipamtest.OpUpdateBlock, 1, func() { // all claims are made
		close(reached)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond) // a new block can't be leased meanwhile
		defer cancel()
		if got, err := m.Allocate(ctx, request(t, "fresh", "10.0.0.0/16")); err == nil {
			t.Errorf("%v was granted", got)
		}
		for range 200 { // time enough for a grant that must not be
			if m.Held(request(t, "chosen").Owner.Key) != nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
	})
	r := request(t, "chosen", "10.0.0.0/16")
	r.ProbeAll, r.Probe = true, func(context.Context, netip.Addr) error {
		select {
		case <-reached:
		default:
			go func() { ended <- m.Demote(t.Context(), ref) }()
			<-reached
		}
		return nil
	}
	got := m.ask(r)[0]
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if ref.Prefix.Contains(got) {
		if claim := c.claim(got.String()); claim.Owner.ContainerID != "chosen" {
			t.Errorf("%s was granted without a claim", got)
		}
	}
}

// halfShared leaves a block with claims for its addresses, and not shared.
func halfShared(t *testing.T, c *cluster, m *machine, ref ipam.BlockRef) {
	t.Helper()
	c.once(ipamtest.OpUpdateBlock, ipamtest.Lost)
	if err := m.Demote(t.Context(), ref); err == nil {
		t.Fatal("no error")
	}
	c.store.SetFaults(nil)
}

// A block is returned only when no claim of ours is in it: nobody would know
// that the claim protects nobody.
func TestBlockWithAClaimIsNotReturned(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	ref := blockAt(m.add("c1", "10.0.0.0/16")[0])
	halfShared(t, c, m, ref)
	m.del("c1")
	c.do(m.GiveBack)
	if _, there := c.block(ref); !there {
		t.Error("the block was returned with a claim in it")
	}
	c.now += 2 * ipam.DefaultCooldown
	c.do(m.Cool)
	c.do(m.GiveBack)
	if _, there := c.block(ref); there {
		t.Error("the block is still there")
	}
}

// Touch before a claim of an earlier try to share is used: its DELETE may be on
// its way.
func TestClaimOfAnEarlierSharingIsTouched(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	mine := m.add("c1", "10.0.0.0/16")[0]
	ref := blockAt(mine)
	halfShared(t, c, m, ref)
	m.del("c1")
	c.do(m.Resume) // nobody asks for it: in use again
	c.now += 2 * ipam.DefaultCooldown
	c.once(ipamtest.OpDeleteClaim, ipamtest.Late)
	if err := m.Cool(t.Context()); err == nil {
		t.Fatal("no error")
	}
	m.dead["c1"] = false
	m.ask(exact(t, "c1", mine.String(), "10.0.0.0/16"))
	c.do(func(ctx context.Context) error { return m.Demote(ctx, ref) })
	c.lateIsStale()
}

// A block is returned after two looks, a minute apart, between which it was
// empty and after which nothing cools in it; not when few addresses are left.
func TestWhenABlockIsReturned(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	var refs []ipam.BlockRef
	for i := range 2 {
		for j := range 64 {
			got := m.add(string(rune('A'+i))+string(rune('0'+j)), "10.0.0.0/16")[0]
			if ref := blockAt(got); !slices.Contains(refs, ref) {
				refs = append(refs, ref)
			}
		}
		c.do(m.Ahead)
	}
	look := func(want bool, why string) {
		t.Helper()
		c.do(m.GiveBack)
		if _, there := c.block(refs[0]); there != want {
			t.Fatalf("%s: the block is there: %t", why, there)
		}
	}
	spared := 0
	for key, r := range m.state.records {
		if refs[0].Prefix.Contains(r.Places[0].Addr) {
			m.del(key.ContainerID)
		} else if spared++; spared <= spare { // the rest has enough without it
			m.del(key.ContainerID)
		}
	}
	c.now += 2 * ipam.DefaultCooldown
	look(true, "the first look")
	c.now += returnAfter - time.Second
	look(true, "within a minute")
	m.state.spaces[ipam.DefaultSpace] = func(sp ipam.Space) ipam.Space { sp.Cooldown = time.Hour; return sp }(m.state.spaces[ipam.DefaultSpace])
	m.ask(exact(t, "again", refs[0].Prefix.Addr().Next().String(), "10.0.0.0/16"))
	look(true, "in use again")
	m.del("again")
	c.now += 2 * returnAfter
	look(true, "what was released cools")
	m.ask(exact(t, "again", refs[0].Prefix.Addr().Next().Next().String(), "10.0.0.0/16"))
	look(true, "in use again")
	m.del("again")
	c.now += 2 * time.Hour
	look(true, "the first look after that")
	c.now += returnAfter
	look(false, "the second one")
	for key := range m.state.records {
		m.del(key.ContainerID)
	}
	for range 5 {
		c.now += time.Hour
		c.do(m.GiveBack)
	}
	if blocks, err := c.store.NodeBlocks(t.Context(), "a"); err != nil || len(blocks) != 1 {
		t.Errorf("in the end: %+v, %v", blocks, err)
	}
}

// A node that may not allocate gives nothing, and takes back.
func TestNodeThatMayNotAllocate(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("c1", "10.0.0.0/16")
	gone := errors.New("its Node object is gone")
	m.opts.MayAllocate = func() error { return gone }
	if _, err := m.Allocate(t.Context(), request(t, "c2", "10.0.0.0/16")); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	m.del("c1")
}

// A repeated ADD for an IPAMClaim asks again: the claim may be gone, or its
// DELETE on its way.
func TestRepeatedADDOfAnIPAMClaim(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	r := request(t, "vm", "10.0.0.0/28")
	r.Keep = ipam.Keeper{Kind: ipam.KeepClaim, Namespace: "default", Name: "vm", UID: "u1", Network: "lan", IfName: "net1"}
	mine := m.ask(r)[0]
	claim := c.claim(mine.String())
	c.once(ipamtest.OpDeleteClaim, ipamtest.Late)
	if err := c.store.DeleteClaim(t.Context(), claim.Ref, claim.Version); err == nil {
		t.Fatal("no error")
	}
	m.ask(r)
	c.lateIsStale()
	claim = c.claim(mine.String())
	if err := c.store.DeleteClaim(t.Context(), claim.Ref, claim.Version); err != nil {
		t.Fatal(err)
	}
	again := m.ask(r)[0]
	if got := c.claim(again.String()); got.Keep != r.Keep || got.State != ipam.Kept {
		t.Errorf("%s has %+v", again, got)
	}
}

// What cools in a block goes on cooling when the block is shared.
func TestCooldownOutlivesSharing(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	mine := m.add("c1", "10.0.0.0/16")[0]
	m.del("c1")
	c.do(func(ctx context.Context) error { return m.Demote(ctx, blockAt(mine)) })
	if got := c.claim(mine.String()); got.State != ipam.Cooling {
		t.Errorf("the claim is %s", got.State)
	}
	c.now += 2 * ipam.DefaultCooldown
	c.settle(2)
	if _, err := c.store.GetClaim(t.Context(), ipam.ClaimRef{Space: ipam.DefaultSpace, Addr: mine}); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("after the cool-down: %v", err)
	}
}

// An address that was released isn't given by name while its sandbox is there.
func TestCoolingAddressByName(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	mine := m.add("c1", "10.0.0.0/16")[0]
	if err := m.Release(t.Context(), request(t, "c1").Owner.Key); err != nil {
		t.Fatal(err)
	}
	want := exact(t, "c2", mine.String(), "10.0.0.0/16")
	if _, err := m.Allocate(t.Context(), want); !errors.Is(err, ipam.ErrNotReady) {
		t.Errorf("while the namespace is there: %v", err)
	}
	m.dead["c1"] = true
	if got := m.ask(want)[0]; got != mine {
		t.Errorf("got %s", got)
	}
}
