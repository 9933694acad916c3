package agent

import (
	"testing"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
)

// The reply to an adoption is lost, and the agent is killed: the sandbox lived
// before and lives on, so its claim must stay.
func TestAdoptionWithoutReply(t *testing.T) {
	for name, outcome := range map[string]ipamtest.Outcome{"lost": ipamtest.Lost, "unanswered": ipamtest.Unanswered, "late": ipamtest.Late} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			m := c.node("a")
			m.ask(exact(t, "x", "10.0.0.9", "10.0.0.0/28"))
			ref := ipam.ClaimRef{Space: ipam.DefaultSpace, Addr: addr("10.0.0.5")}
			if _, err := c.store.CreateClaim(t.Context(), ipam.Claim{Ref: ref, State: ipam.Bound, Node: ipam.Node{Name: "a"}, Owner: request(t, "old").Owner}); err != nil {
				t.Fatal(err)
			}
			c.store.SetFaults(func(call ipamtest.Call) (ipamtest.Outcome, error) {
				if call.Op == ipamtest.OpUpdateClaim {
					return outcome, nil
				}
				return ipamtest.Done, nil
			})
			if err := m.Scan(t.Context()); err == nil {
				t.Fatal("the scan had no error")
			}
			c.store.SetFaults(nil)
			m.start()
			if outcome == ipamtest.Late {
				if err := c.store.ApplyLate(0); err != nil {
					t.Fatal(err)
				}
			}
			c.settle(2)
			c.now += 2 * ipam.DefaultCooldown
			c.settle(2)
			if got := c.claim("10.0.0.5"); got.State != ipam.Bound || got.Node != m.Node() {
				t.Errorf("the claim of a living sandbox: %+v", got)
			}
			m.del("old")
			for range 3 {
				c.settle(1)
				c.now += 2 * ipam.DefaultCooldown
			}
			if claims, err := c.store.NodeClaims(t.Context(), "a"); err != nil || len(claims) != 1 {
				t.Errorf("after its DEL: %+v, %v", claims, err)
			}
		})
	}
}

// A list that is old shows an imported claim whose sandbox has gone since and
// whose address another has: it is left alone.
func TestOldListOfImportedClaims(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.ask(exact(t, "x", "10.0.0.9", "10.0.0.0/28")) // makes the space and the block
	ref := ipam.ClaimRef{Space: "default", Addr: addr("10.0.0.5")}
	old := ipam.Claim{Ref: ref, State: ipam.Bound, Node: ipam.Node{Name: "a"}, Owner: request(t, "old").Owner}
	now := old
	now.Node, now.Owner = c.node("b").Node(), request(t, "new").Owner
	if _, err := c.store.CreateClaim(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if err := m.adopt(t.Context(), old); err != nil {
		t.Error(err)
	}
	if held := m.Held(old.Owner.Key); len(held) > 0 {
		t.Errorf("a sandbox that is gone has %v", held)
	}
	if err := m.Scan(t.Context()); err != nil || len(m.alarms) > 0 {
		t.Errorf("scan: %v, alarms %+v", err, m.alarms)
	}
}
