package agent

import (
	"errors"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
)

// Without a daemon, each call is a process: what an earlier boot had is taken
// back, so that reboots don't use a range up.
func TestBlocksOfEarlierBootsWithoutDaemon(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	for range 8 {
		m.add("c1", "10.0.0.0/24")
		m.reboot()
		if err := m.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.start()
	}
	if blocks, err := c.store.NodeBlocks(t.Context(), "a"); err != nil || len(blocks) != 1 {
		t.Errorf("%d blocks after 8 reboots: %v", len(blocks), err)
	}
}

// A call that was killed with a claim under way leaves none.
func TestClaimOfAKilledCallWithoutDaemon(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("c0", "10.0.0.0/28")
	c.store.SetFaults(func(call ipamtest.Call) (ipamtest.Outcome, error) {
		if call.Op == ipamtest.OpCreateClaim {
			m.disk.broken = errDead
			return ipamtest.Unanswered, nil
		}
		return ipamtest.Done, nil
	})
	if _, err := m.Allocate(t.Context(), request(t, "c1", "10.0.0.0/28")); !errors.Is(err, errDead) {
		t.Fatal(err)
	}
	c.store.SetFaults(nil)
	m.disk.broken = nil
	for range 2 {
		m.start()
		if err := m.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.now += 2 * ipam.DefaultCooldown
	}
	if claims, err := c.store.NodeClaims(t.Context(), "a"); err != nil || len(claims) != 1 {
		t.Errorf("claims: %+v, %v", claims, err)
	}
}
