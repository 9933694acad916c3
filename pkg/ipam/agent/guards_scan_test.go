package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// put makes the block Shared and a claim in it, behind everybody's back.
func (c *cluster) put(claim ipam.Claim) {
	c.t.Helper()
	if _, err := c.store.Space(c.ctx(), rangeOf(c.t, "10.0.0.0/16").Space); err != nil {
		c.t.Fatal(err)
	}
	_, _ = c.store.CreateBlock(c.ctx(), ipam.Block{Ref: blockAt(claim.Ref.Addr), Mode: ipam.Shared}) // or it is there
	if _, err := c.store.CreateClaim(c.ctx(), claim); err != nil {
		c.t.Fatal(err)
	}
}

// What belongs to another machine that had this name, to a keeper, or to a log
// that was lost is not the scan's.
func TestScanLeavesWhatIsNotOurs(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("c0", "10.9.0.0/28") // makes the space
	other := ipam.Node{Name: "a", UID: "another machine", Boot: "its boot", Log: "its log"}
	lost := m.Node()
	lost.Log = "a lost log"
	var want []ipam.Claim
	for i, claim := range []ipam.Claim{
		{State: ipam.Bound, Node: other},
		{State: ipam.Bound, Node: lost},
		{State: ipam.Kept, Node: m.Node(), Keep: ipam.Keeper{Kind: ipam.KeepPod, Namespace: "default", Name: "web-0"}},
	} {
		claim.Ref = ipam.ClaimRef{Space: ipam.DefaultSpace, Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}
		claim.Owner = request(t, "foreign").Owner
		c.put(claim)
		want = append(want, c.claim(claim.Ref.Addr.String()))
	}
	var blocks []ipam.Block
	for i, owner := range []ipam.Node{other, lost} {
		b, err := c.store.CreateBlock(t.Context(), ipam.Block{
			Ref: blockAt(netip.AddrFrom4([4]byte{10, 1, byte(i), 0})), Mode: ipam.Leased, Owner: owner,
		})
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, b)
	}
	for range 3 {
		c.settle(1)
		c.now += 2 * ipam.DefaultCooldown
	}
	for _, b := range blocks {
		if now, _ := c.block(b.Ref); now != b {
			t.Errorf("%+v became %+v", b, now)
		}
	}
	for _, before := range want {
		if now := c.claim(before.Ref.Addr.String()); now != before {
			t.Errorf("%+v became %+v", before, now)
		}
	}
}

// A claim that names a sandbox whose record has another address is nobody's.
func TestScanFreesWhatNoRecordHas(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	mine := m.ask(exact(t, "c1", "10.0.0.5", "10.0.0.0/28"))[0]
	orphan := ipam.ClaimRef{Space: ipam.DefaultSpace, Addr: addr("10.0.0.6")}
	c.put(ipam.Claim{Ref: orphan, State: ipam.Bound, Node: m.Node(), Owner: request(t, "c1").Owner})
	for range 3 {
		c.settle(1)
		c.now += 2 * ipam.DefaultCooldown
	}
	if _, err := c.store.GetClaim(t.Context(), orphan); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("the orphan: %v", err)
	}
	if got := c.claim(mine.String()); got.State != ipam.Bound {
		t.Errorf("the claim in use is %s", got.State)
	}
}

// A scan in the middle of an ADD finds a claim without a record: it is the
// ADD's.
func TestScanInTheMiddleOfAnADD(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	r := exact(t, "c1", "10.0.0.5", "10.0.0.0/28")
	r.ProbeAll, r.Probe = true, func(context.Context, netip.Addr) error {
		m.dead["c1"] = true // nothing else holds the work up
		c.do(m.Scan)
		c.now += 2 * ipam.DefaultCooldown
		c.do(m.Cool)
		m.dead["c1"] = false
		return nil
	}
	m.ask(r)
	if got := c.claim("10.0.0.5"); got.State != ipam.Bound {
		t.Errorf("the claim is %s", got.State)
	}
}

// An imported sandbox has as many addresses as it has claims.
func TestImportedSandboxWithTwoAddresses(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	owner := request(t, "old").Owner
	var want []netip.Addr
	for _, address := range []string{"10.0.0.5", "10.0.0.6"} {
		want = append(want, addr(address))
		c.put(ipam.Claim{Ref: ipam.ClaimRef{Space: ipam.DefaultSpace, Addr: addr(address)}, State: ipam.Bound, Node: ipam.Node{Name: "a"}, Owner: owner})
	}
	c.settle(2)
	got := m.Held(owner.Key)
	slices.SortFunc(got, netip.Addr.Compare)
	if !slices.Equal(got, want) {
		t.Errorf("held: %v", got)
	}
	m.del("old")
	for range 3 {
		c.settle(1)
		c.now += 2 * ipam.DefaultCooldown
	}
	if _, claims := c.store.All(); len(claims) != 0 {
		t.Errorf("after its DEL: %+v", claims)
	}
}

// A space that was made anew with another grid gives its names to other
// addresses.
func TestSpaceWithAnotherGrid(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("c1", "10.0.0.0/16")
	known := m.state.spaces[ipam.DefaultSpace]
	known.Grid.V4 = 28 // as if the log were of before
	m.state.spaces[ipam.DefaultSpace] = known
	c.do(m.Scan)
	if _, err := m.Allocate(t.Context(), request(t, "c2", "10.0.0.0/16")); !errors.Is(err, ipam.ErrNotReady) {
		t.Errorf("got %v", err)
	}
	if len(m.alarms) != 1 || m.alarms[0].Reason != "AddressSpaceChanged" {
		t.Errorf("alarms: %+v", m.alarms)
	}
}

// The block of a living sandbox was given to another node: somebody must know,
// and nothing more is given of it.
func TestBlockThatAnotherNodeHas(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	mine := m.add("c1", "10.0.0.0/16")[0]
	b, _ := c.block(blockAt(mine))
	b.Owner = c.node("b").Node()
	if _, err := c.store.UpdateBlock(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	c.do(m.Scan)
	if len(m.alarms) != 1 || m.alarms[0].Reason != "UnprotectedAddress" {
		t.Errorf("alarms: %+v", m.alarms)
	}
	if got := m.add("c2", "10.0.0.0/16")[0]; b.Ref.Prefix.Contains(got) {
		t.Errorf("%s is of another's block", got)
	}
}

// An address that is kept is a claim, also where this node has leased all there
// is.
func TestKeptAddressInOwnBlocks(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	r := request(t, "c1", "10.0.0.0/26")
	r.Wants[0].Ranges[0].Space.Mode = ipam.Blocks
	m.ask(r)
	r.Owner.ContainerID = "c2"
	r.Keep = ipam.Keeper{Kind: ipam.KeepPod, Namespace: "default", Name: "web-0", Network: "lan", IfName: "net1"}
	if got := c.claim(m.ask(r)[0].String()); got.Keep != r.Keep {
		t.Errorf("the claim: %+v", got)
	}
}
