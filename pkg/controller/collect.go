package controller

import (
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// Collector decides. It remembers since when it saw what, and does no I/O.
type Collector struct {
	times  Times
	fences fences
	claims map[ipam.ClaimRef]sighting
}

// sighting is a claim that is to be changed after a while.
type sighting struct {
	version ipam.Version
	reason  string
	since   time.Time
}

// NewCollector has seen nothing yet.
func NewCollector(t Times) *Collector {
	return &Collector{times: t.withDefaults(), fences: fences{}, claims: map[ipam.ClaimRef]sighting{}}
}

// Node judges a node by evidence that was read at now.
func (c *Collector) Node(now time.Time, n ipam.Node, e Evidence) Verdict {
	return c.fences.judge(c.times, now, lifeOf(n), e)
}

// Block is what a block becomes if its node is dead; false if it stays.
func (c *Collector) Block(b ipam.Block, owner Verdict) (ipam.Block, bool) {
	if b.Mode != ipam.Leased || b.Owner.Name == "" || !owner.Dead {
		return ipam.Block{}, false
	}
	b.Owner, b.Suspect = ipam.Node{}, true
	return b, true
}

// Action is what is to be done with a claim.
type Action string

// Actions.
const (
	Leave  Action = ""
	Update Action = "update"
	Delete Action = "delete"
)

// Claim decides about a claim as it was read at now, by its node's verdict and,
// if it is Kept, its keeper's evidence. With Update it gives the new claim.
func (c *Collector) Claim(now time.Time, cl ipam.Claim, node Verdict, keeper KeeperEvidence) (Action, ipam.Claim, string) {
	switch {
	case cl.State == ipam.Kept && keeper.Err != nil:
		return Leave, ipam.Claim{}, "" // neither seen nor not seen
	case cl.State == ipam.Kept:
		reason, wait := c.times.Keeper(cl.Keep, keeper)
		if c.lasts(now, cl, reason, wait) {
			return Update, cooled(cl), reason
		}
		return Leave, ipam.Claim{}, ""
	case cl.State == ipam.Cooling && cl.Node.Name == "":
		const reason = "it has cooled down"
		if c.lasts(now, cl, reason, c.times.Cooling) {
			return Delete, ipam.Claim{}, reason
		}
		return Leave, ipam.Claim{}, ""
	case cl.Node.Name == "" || !node.Dead:
		return Leave, ipam.Claim{}, ""
	}
	next := cl
	next.Node, next.Suspect = ipam.Node{}, true
	if cl.State == ipam.Bound {
		next.State = ipam.Cooling
		if !cl.Keep.IsZero() {
			next.State = ipam.Kept
		}
	}
	return Update, next, "node " + cl.Node.Name + ": " + node.Reason
}

// cooled is a Kept claim that is kept no longer.
func cooled(c ipam.Claim) ipam.Claim {
	c.State, c.Keep, c.Node = ipam.Cooling, ipam.Keeper{}, ipam.Node{}
	return c
}

// lasts says whether the reason has held for the claim, unchanged, since wait
// ago; no reason forgets it.
func (c *Collector) lasts(now time.Time, cl ipam.Claim, reason string, wait time.Duration) bool {
	if reason == "" {
		delete(c.claims, cl.Ref)
		return false
	}
	s, ok := c.claims[cl.Ref]
	if !ok || s.version != cl.Version || s.reason != reason {
		c.claims[cl.Ref] = sighting{cl.Version, reason, now}
		return wait <= 0
	}
	return now.Sub(s.since) >= wait
}

// Forget drops what is remembered of claims and nodes that were not seen in a
// whole pass.
func (c *Collector) Forget(claims map[ipam.ClaimRef]bool, nodes map[ipam.Node]bool) {
	for ref := range c.claims {
		if !claims[ref] {
			delete(c.claims, ref)
		}
	}
	lives := map[life]bool{}
	for n := range nodes {
		lives[lifeOf(n)] = true
	}
	for l := range c.fences {
		if !lives[l] {
			delete(c.fences, l)
		}
	}
}
