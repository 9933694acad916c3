package agent

import (
	"testing"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// full is a node with the only address of a range, released a moment ago and
// told so.
func full(t *testing.T) (*cluster, *machine, ipam.ClaimRef) {
	t.Helper()
	c := newCluster(t)
	m := c.node("a")
	ref := ipam.ClaimRef{Space: ipam.DefaultSpace, Addr: m.add("old", "10.0.0.9/32")[0]}
	m.del("old")
	if err := m.Cool(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c, m, ref
}

// A cooling claim that changes between the look and the takeover is looked at
// again, and one that is deleted then is claimed: nobody hears that no address
// is left.
func TestCoolingClaimThatChangesMeanwhile(t *testing.T) {
	for name, meanwhile := range map[string]func(*ipamtest.Memory, ipam.Claim) error{
		"touched": func(s *ipamtest.Memory, c ipam.Claim) error {
			_, err := s.UpdateClaim(t.Context(), c)
			return err
		},
		"deleted": func(s *ipamtest.Memory, c ipam.Claim) error { return s.DeleteClaim(t.Context(), c.Ref, c.Version) },
	} {
		t.Run(name, func(t *testing.T) {
			c, m, ref := full(t)
			done := false
			c.store.SetFaults(func(call ipamtest.Call) (ipamtest.Outcome, error) {
				if call.Op != ipamtest.OpUpdateClaim || done {
					return ipamtest.Done, nil
				}
				done = true
				claim, err := c.store.GetClaim(t.Context(), ref)
				if err == nil {
					err = meanwhile(c.store, claim)
				}
				return ipamtest.Done, err
			})
			if got := m.add("new", "10.0.0.9/32"); got[0] != ref.Addr || !done {
				t.Errorf("got %v, changed %v", got, done)
			}
		})
	}
}

// A claim that says Cooling isn't written again: that would refuse whoever is
// taking it over.
func TestCoolingIsToldOnce(t *testing.T) {
	c, m, ref := full(t)
	claim, err := c.store.GetClaim(t.Context(), ref)
	if err != nil || claim.State != ipam.Cooling {
		t.Fatalf("%+v, %v", claim, err)
	}
	now, _ := m.released(ref)
	before := c.store.Writes()
	if err := m.tell(t.Context(), ref, now); err != nil || c.store.Writes() != before {
		t.Errorf("told again: %v", err)
	}
}

// A claim whose ADD was never answered has no sandbox to wait for: another gets
// the address before it has cooled down.
func TestOrphanIsTakenAtOnce(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	rg := rangeOf(t, "10.0.0.9/32")
	if _, err := m.space(t.Context(), rg.Space); err != nil {
		t.Fatal(err)
	}
	ref := ipam.ClaimRef{Space: ipam.DefaultSpace, Addr: rg.Usable.Ranges()[0].First()}
	if _, err := c.store.CreateBlock(t.Context(), ipam.Block{
		Ref: ipam.BlockRef{Space: ref.Space, Prefix: iprange.DefaultGrid().Block(ref.Addr)}, Mode: ipam.Shared,
	}); err != nil {
		t.Fatal(err)
	}
	orphan := ipam.Claim{Ref: ref, State: ipam.Bound, Node: m.Node(), Owner: request(t, "killed").Owner}
	if _, err := c.store.CreateClaim(t.Context(), orphan); err != nil {
		t.Fatal(err)
	}
	if err := m.Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := m.add("new", "10.0.0.9/32"); got[0] != ref.Addr {
		t.Errorf("got %v", got)
	}
}
