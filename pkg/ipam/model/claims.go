package model

// wantsClaim says whether the log of n promises that the claim of the record's
// address becomes the sandbox's.
func (x *expander) wantsClaim(s *state, b uint8) bool {
	me, it := s.nodes[home(b)], s.boxes[b]
	return it.record == intent || it.record == assigned && x.c.open(me)
}

// open says whether a block that is being returned may be worked on: after a
// start it is read first.
func (c *Config) open(me node) bool {
	return me.block == returning && (me.ref != noRef || c.Without == ReturningReread)
}

// mayTake says whether the sandbox may have the claim by an UPDATE.
func (c *Config) mayTake(claim claimObject, b uint8) bool {
	keeper := c.keeper(b) || c.Without == KeeperOnly
	switch claim.mode {
	case cooling:
		return true
	case kept:
		return keeper
	case bound:
		joins := c.With&KeepClaim != 0 && claim.keep && keeper
		return joins || claim.age == imported && claim.box == b || c.Without == CoolingOnly
	}
	return false
}

// claimRequests are those for the sandboxes of n, and those of the scan.
func (x *expander) claimRequests(s *state, n uint8) {
	for b := n; int(b) < x.c.Sandboxes; b += nodes {
		if !x.wantsClaim(s, b) {
			continue
		}
		a := s.boxes[b].recordAddr
		x.send(s, n, request{kind: createClaim, box: b, addr: a})
		if x.c.mayTake(s.claims[a], b) {
			x.send(s, n, request{kind: takeClaim, box: b, addr: a, ref: current})
		}
	}
	for a := range uint8(x.c.Addresses) {
		x.scan(s, n, a)
	}
}

// scan frees an own claim that no record speaks of. Claims that are Kept are
// not the scan's.
func (x *expander) scan(s *state, n, a uint8) {
	claim := s.claims[a]
	own := claim.mode != noClaim && claim.mode != kept && home(claim.box) == n
	foreign := claim.age == imported && x.c.Without != ImportStays || claim.age == lostLog && x.c.Without != OldLogStays
	if !own || foreign || s.speaks(claim, a) && x.c.Without != ScanReadsFirst {
		return
	}
	if x.c.Without == ScanReadsFirst && s.nodes[n].scanned != a+1 {
		return
	}
	for _, kind := range x.c.frees(claim) {
		x.send(s, n, request{kind: kind, addr: a, ref: current})
	}
}

// speaks says whether the log of the claim's node has a record of it.
func (s *state) speaks(claim claimObject, a uint8) bool {
	it := s.boxes[claim.box]
	return claim.age != oldBoot && it.record != noRecord && it.recordAddr == a
}

// frees are the requests that may end an unused claim's being Bound or Cooling.
func (c *Config) frees(claim claimObject) []uint8 {
	switch {
	case claim.keep && c.Without != KeptStays:
		return []uint8{keepClaim}
	case claim.mode == bound && c.With&Cooling != 0:
		return []uint8{coolClaim, deleteClaim}
	}
	return []uint8{deleteClaim}
}

// drop ends the record of a sandbox. Where others may have taken the claim
// meanwhile, nobody waits any more for the reply to what it asked for. Elsewhere
// a later record may use it.
func (s *state) drop(c *Config, b uint8) {
	s.boxes[b].record = noRecord
	s.ignoreReply(c, b)
}

func (s *state) ignoreReply(c *Config, b uint8) {
	r := s.nodes[home(b)].request
	forBox := r.kind == createClaim || r.kind == touchClaim || r.kind == takeClaim
	if c.With&KeepClaim != 0 && c.Without != OwnReply && forBox && r.box == b {
		s.giveUp(c, home(b))
	}
}

// askAgain is for an ADD of a sandbox whose record is older: its claim was
// adopted although it wasn't there. Another sandbox of an IPAMClaim may have
// taken such a claim over since, and freed it.
func (s *state) askAgain(c *Config, b uint8) {
	if c.With&KeepClaim == 0 || c.Without == AskAgain || s.boxes[b].record == noRecord {
		return
	}
	s.boxes[b].record = intent
	s.ignoreReply(c, b)
}

// observe is what an agent sees for itself on its node: imported claims to
// adopt, and records of sandboxes that aren't there.
func (x *expander) observe(s *state, n uint8) {
	for b := n; int(b) < x.c.Sandboxes; b += nodes {
		if it := s.boxes[b]; it.life == idle && it.record != noRecord {
			next := *s
			next.drop(x.c, b)
			x.add(next, edge{what: evGone, node: n, box: b})
		}
	}
	for a, claim := range s.claims {
		if claim.mode == bound && claim.age == imported && home(claim.box) == n {
			x.adopt(s, n, uint8(a))
		}
	}
	if x.c.Without == ScanReadsFirst {
		for a := range uint8(x.c.Addresses) {
			next := *s
			next.nodes[n].scanned = a + 1
			if !s.taken(n, a) && s.nodes[n].scanned != a+1 {
				x.add(next, edge{what: evScan, node: n, addr: a})
			}
		}
	}
}

// adopt begins to make an imported claim the agent's own, whether its sandbox
// is still there or not: the intent first, then an UPDATE.
func (x *expander) adopt(s *state, n, a uint8) {
	b := s.claims[a].box
	if it := s.boxes[b]; it.record != noRecord || it.life == adding || it.life == deleting || s.taken(n, a) {
		return
	}
	if x.c.Without == AdoptIntent {
		if s.nodes[n].request.kind == noRequest {
			x.send(s, n, request{kind: takeClaim, box: b, addr: a, ref: current})
		}
		return
	}
	next := *s
	next.boxes[b].record, next.boxes[b].recordAddr = intent, a
	x.add(next, edge{what: evIntent, node: n, box: b, addr: a})
}

// tookClaim: 201 makes the claim held; an own one that exists is touched
// first; one that may be taken over is taken; another's means another address.
func (s *state) tookClaim(c *Config, n uint8, r request) {
	it := &s.boxes[r.box]
	if c.Without == AdoptIntent && r.kind == takeClaim && r.status == done && it.record == noRecord && !s.taken(n, r.addr) {
		it.record, it.recordAddr = intent, r.addr
	}
	wanted := it.recordAddr == r.addr && (it.record == intent || it.record == assigned)
	if !wanted || r.status == refused {
		return
	}
	claim := s.claims[r.addr]
	own := s.claimOf(r.addr, r.box) || c.Without == RealOwner
	next := request{node: n, box: r.box, addr: r.addr, ref: current}
	switch {
	case r.status == done || own && c.Without == TouchClaim || c.Without == RealOwner:
		it.record = held
	case own:
		next.kind = touchClaim
		s.nodes[n].request = next
	case c.mayTake(claim, r.box):
		next.kind = takeClaim
		s.nodes[n].request = next
	case claim.mode != noClaim && it.record == intent:
		it.record = noRecord
	}
}
