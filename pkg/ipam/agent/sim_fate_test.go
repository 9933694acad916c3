package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// loseLog takes the log away while the sandboxes live on.
func (s *sim) loseLog(m *machine) {
	s.note("%s loses its log", m.name)
	m.disk = &memory{}
	s.restart(m)
}

// rename registers the machine anew, with another UID.
func (s *sim) rename(m *machine) {
	m.uids++
	a := m.Agent
	err := a.Registered(m.uid())
	s.note("%s has UID %s: %v", m.name, m.uid(), err)
	s.revive(m, a, err)
}

// fence is a machine that is off for long and whose objects the controller
// takes; perhaps it comes back with another disk. Nobody but the oracle knows
// that its sandboxes are gone.
func (s *sim) fence(m *machine) {
	s.note("%s is given up for dead", m.name)
	for _, b := range s.live {
		for i, ref := range b.refs() {
			at := ipam.BlockRef{Space: ref.Space, Prefix: b.req.Wants[i].Ranges[0].Space.Grid.Block(ref.Addr)}
			if block, err := s.store.GetBlock(s.t.Context(), at); err == nil && block.Mode == ipam.Leased && b.node == m.name {
				s.ghosts[ref] = true // what has a claim cools for long instead
			}
		}
	}
	s.off(m)
	s.collect(func(n ipam.Node) bool { return n.Name == m.name })
	m.boot++
	m.uids++
	if s.chaos.IntN(2) == 0 {
		m.disk = &memory{}
	}
	s.restart(m)
}

// collect is the controller: it takes the objects of nodes that are dead.
func (s *sim) collect(dead func(ipam.Node) bool) {
	s.t.Helper()
	blocks, claims := s.store.All()
	for _, b := range blocks {
		if b.Mode == ipam.Leased && dead(b.Owner) {
			b.Owner, b.Suspect = ipam.Node{}, true
			if _, err := s.store.UpdateBlock(s.t.Context(), b); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	for _, c := range claims {
		if c.State != ipam.Kept && dead(c.Node) {
			c.State, c.Node, c.Suspect = ipam.Cooling, ipam.Node{}, true
			if !c.Keep.IsZero() {
				c.State = ipam.Kept
			}
			if _, err := s.store.UpdateClaim(s.t.Context(), c); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

// endKeeper is a keeper that is gone: the controller frees what is kept for it,
// if it has no sandbox.
func (s *sim) endKeeper() {
	s.t.Helper()
	_, claims := s.store.All()
	i := slices.IndexFunc(claims, func(c ipam.Claim) bool { return c.State == ipam.Kept })
	if i < 0 {
		return
	}
	keep := claims[i].Keep
	for _, b := range s.live {
		if b.req.Keep == keep {
			return
		}
	}
	s.note("%s is gone", keep)
	for _, c := range claims {
		if c.Keep == keep && c.State == ipam.Kept {
			if err := s.store.DeleteClaim(s.t.Context(), c.Ref, c.Version); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

// importOne makes a claim for a sandbox that was there before us.
func (s *sim) importOne() {
	s.next++
	m, rg := s.machine(), rangeOf(s.t, "10.0.0.0/26")
	a, _ := rg.Usable.Nth(iprange.From64(s.chaos.Uint64N(rg.Usable.Count().Uint64())))
	ref := ipam.ClaimRef{Space: rg.Space.Name, Addr: a}
	if _, err := s.store.Space(s.t.Context(), rg.Space); err != nil {
		s.t.Fatal(err)
	}
	at := ipam.BlockRef{Space: rg.Space.Name, Prefix: rg.Space.Grid.Block(a)}
	_, _ = s.store.CreateBlock(s.t.Context(), ipam.Block{Ref: at, Mode: ipam.Shared}) // or it is there
	if block, err := s.store.GetBlock(s.t.Context(), at); err != nil || block.Mode != ipam.Shared {
		return
	}
	b := &sandbox{
		node: m.name, container: fmt.Sprint("i", s.next), imported: true,
		req: request(s.t, fmt.Sprint("i", s.next), rg.Text), addrs: []netip.Addr{a},
	}
	owner := b.req.Owner
	if s.chaos.IntN(2) == 0 {
		owner.IfName, owner.Network = ipam.Unknown, ipam.Unknown
	}
	b.key = owner.Key
	if _, err := s.store.CreateClaim(s.t.Context(), ipam.Claim{Ref: ref, State: ipam.Bound, Node: ipam.Node{Name: m.name}, Owner: owner}); err != nil {
		return // somebody has it
	}
	s.note("%s of %s is imported for %s", a, b.container, m.name)
	s.live[b.container] = b
	s.hold(b, ref)
}

// finish ends all faults and sandboxes; then nothing may be left.
func (s *sim) finish() {
	s.t.Helper()
	s.chaos.odds, s.chaos.killed = 0, ""
	for _, do := range s.chaos.late {
		do()
	}
	s.chaos.late = nil
	for len(s.live)+len(s.failed) > 0 {
		s.delOne()
	}
	for _, name := range s.names {
		s.reboot(s.nodes[name]) // what a lost log made is left until then
	}
	s.settleAll()
	blocks, claims := s.store.All()
	for _, c := range claims {
		if c.State != ipam.Kept && c.Node.Name != "" {
			s.t.Errorf("LEAKED claim: %+v", c)
		}
	}
	leased := map[string]int{}
	for _, b := range blocks {
		if b.Mode != ipam.Leased {
			continue
		}
		leased[b.Owner.Name+" "+b.Ref.Space]++
		if m := s.nodes[b.Owner.Name]; m != nil && (b.Owner != m.Node() || m.state.blocks[b.Ref] == nil) {
			s.t.Errorf("LEAKED block: %+v of %+v", b, m.Node())
		}
	}
	for _, m := range s.nodes {
		if n := len(m.state.records) + len(m.state.intents) + len(m.state.cooling) + len(m.reserved); n > 0 {
			s.t.Errorf("%s still has %d records", m.name, n)
		}
		for ref, b := range m.state.blocks {
			if !b.block.IsEmpty() {
				s.t.Errorf("%s: block %s isn't empty", m.name, ref)
			}
		}
	}
	s.t.Logf("%d granted; leased blocks left: %v; shared for ever: %d", s.granted, leased, len(blocks)-sum(leased))
}

// settleAll lets everybody do all that is to be done, the controller too.
func (s *sim) settleAll() {
	s.t.Helper()
	for range 8 {
		s.now += 2 * time.Minute
		s.collect(func(n ipam.Node) bool {
			m := s.nodes[n.Name]
			return m != nil && n.UID != "" && n.UID != m.uid() && n.Log != m.Node().Log
		})
		s.settle(2)
	}
}
