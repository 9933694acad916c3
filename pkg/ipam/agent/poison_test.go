package agent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// What can't be applied must not get into the log: no agent could start on it.
func TestLogHoldsNothingThatCannotBeApplied(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("c1", "10.0.0.0/16")
	long := request(t, "c2", "10.0.0.0/16")
	long.Owner.Network = strings.Repeat("n", 1100)
	if _, err := m.Allocate(t.Context(), long); !errors.Is(err, ipam.ErrInvalid) {
		t.Errorf("a network with a name of 1100 bytes: %v", err)
	}
	prefix := netip.MustParsePrefix("10.8.0.0/20")
	for name, e := range map[string]entry{
		"too large a block": {Op: opReady, Block: &ipam.BlockRef{Space: ipam.DefaultSpace, Prefix: prefix}, Version: &ipam.Version{}},
		"no block": {Op: opGrant, Record: &record{
			Owner: request(t, "c3").Owner, Places: []place{{Space: ipam.DefaultSpace, Addr: addr("10.200.0.1"), InBlock: true}},
		}},
		"another's address": {Op: opGrant, Record: &record{
			Owner: request(t, "c3").Owner, Places: []place{{Space: ipam.DefaultSpace, Addr: m.Held(request(t, "c1").Owner.Key)[0], InBlock: true}},
		}},
	} {
		if err := m.write(e); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	if err := m.Ready(); err != nil {
		t.Error(err)
	}
	m.start()
	m.add("c4", "10.0.0.0/16")
}

// Somebody makes a block of this node's name that no grid has.
func TestBlockThatNoGridHasIsLeftAlone(t *testing.T) {
	c := newCluster(t)
	m := c.node("a")
	m.add("c1", "10.0.0.0/16")
	odd := ipam.BlockRef{Space: ipam.DefaultSpace, Prefix: netip.MustParsePrefix("10.8.0.0/20")}
	if _, err := c.store.CreateBlock(t.Context(), ipam.Block{Ref: odd, Mode: ipam.Leased, Owner: m.Node()}); err != nil {
		t.Fatal(err)
	}
	before := c.store.Writes()
	if err := m.Scan(t.Context()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, c.store.Writes()); diff != "" {
		t.Errorf("it was changed (-before +after):\n%s", diff)
	}
	m.add("c2", "10.0.0.0/16")
	m.start()
	m.add("c3", "10.0.0.0/16")
}

// Of one request, no address is given twice, whichever want is served first.
func TestAddressesOfARequestAreDistinct(t *testing.T) {
	for _, cidr := range []string{"10.0.0.0/16", "10.0.0.0/29"} {
		c := newCluster(t)
		m := c.node("a")
		first := m.add("c0", cidr)[0].Next()
		r := request(t, "c1", cidr, cidr)
		r.Order = ipam.Lowest
		r.Wants[1].Addr = first
		got := m.ask(r)
		if got[0] == got[1] || got[1] != first {
			t.Errorf("%s: got %v, wanted any and %s", cidr, got, first)
		}
		twice := exact(t, "c2", first.Next().Next().String(), cidr, cidr)
		twice.Wants[1].Addr = twice.Wants[0].Addr
		if got, err := m.Allocate(t.Context(), twice); !errors.Is(err, ipam.ErrInvalid) {
			t.Errorf("%s: the same address twice: %v, %v", cidr, got, err)
		}
	}
}
