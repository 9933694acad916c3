package agent

import (
	"slices"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
)

// during has do happen once, just before the n-th request of that kind (from 1)
// is carried out.
func (c *cluster) during(op ipamtest.Op, n int, do func()) {
	c.store.SetFaults(func(call ipamtest.Call) (ipamtest.Outcome, error) {
		if call.Op == op {
			if n--; n == 0 {
				do()
			}
		}
		return ipamtest.Done, nil
	})
}

// claim is the claim of an address as the store has it.
func (c *cluster) claim(address string) ipam.Claim {
	c.t.Helper()
	got, err := c.store.GetClaim(c.ctx(), ipam.ClaimRef{Space: ipam.DefaultSpace, Addr: addr(address)})
	if err != nil {
		c.t.Fatal(err)
	}
	return got
}

func exact(t testing.TB, container, address string, ranges ...string) ipam.Request {
	t.Helper()
	r := request(t, container, ranges...)
	r.Wants[0].Addr = addr(address)
	return r
}

// An ADD is repeated while the claim of its former try is being given up: the
// claim that the ADD gets must not be called free after that.
func TestClaimIsNotGivenUpUnderARepeatedADD(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.ask(exact(t, "c1", "10.0.0.5", "10.0.0.0/28"))
	m.del("c1")
	c.during(ipamtest.OpGetClaim, 1, func() {
		m.dead["c1"] = false
		m.ask(exact(t, "c1", "10.0.0.5", "10.0.0.0/28"))
	})
	if err := m.Cool(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := c.claim("10.0.0.5"); got.State != ipam.Bound {
		t.Errorf("the claim of a living sandbox is %s", got.State)
	}
	for i := range 13 {
		if got := c.node("b").add(string(rune('d'+i)), "10.0.0.0/28"); slices.Contains(got, addr("10.0.0.5")) {
			t.Fatal("10.0.0.5 was given twice")
		}
	}
}
