package model

import "slices"

// onBlock says whether the request is about the block and not about a claim.
func (r request) onBlock() bool { return r.kind >= createLeased && r.kind <= deleteBlock }

func (r request) isDelete() bool { return r.kind == deleteBlock || r.kind == deleteClaim }

// conditional says whether the request carries UID and resourceVersion.
func (r request) conditional() bool {
	return r.kind != noRequest && r.kind != createLeased && r.kind != createShared && r.kind != createClaim
}

// matches is the API server's check of the preconditions. Without the one on
// the UID, the version of a new object may happen to be the remembered one: it
// does where versions are counted per object, as in a directory.
func (c *Config) matches(r request) bool {
	switch r.ref {
	case current:
		return true
	case oldVersion:
		return r.isDelete() && c.Without == DeleteVersion || c.blind(r)
	case oldObject:
		return r.isDelete() && c.Without == DeleteUID || c.blind(r)
	}
	return false
}

// blind says whether r is an UPDATE that names no version.
func (c *Config) blind(r request) bool {
	return r.kind == takeClaim && c.Without == TakeVersion ||
		(r.kind == coolClaim || r.kind == keepClaim) && c.Without == CoolVersion
}

// apply is the API server at work: r takes effect or is refused. The answer is
// the status of the reply; after done, the reply's reference is current.
func (s *state) apply(c *Config, r request) uint8 {
	if r.onBlock() {
		return s.applyBlock(c, r)
	}
	claim := &s.claims[r.addr]
	switch {
	case r.kind == createClaim && claim.mode != noClaim:
		return exists
	case r.kind == createClaim:
		*claim = claimObject{mode: bound, box: r.box, age: r.age, keep: c.keeper(r.box)}
		return done
	case claim.mode == noClaim && r.kind == deleteClaim:
		return done
	case claim.mode == noClaim || !c.matches(r):
		return refused
	case r.kind == deleteClaim:
		*claim = claimObject{}
		s.outdate(r, oldObject)
		return done
	case r.kind == takeClaim:
		*claim = claimObject{mode: bound, box: r.box, age: r.age, keep: claim.keep || c.keeper(r.box)}
	case r.kind == coolClaim:
		claim.mode = cooling
	case r.kind == keepClaim:
		claim.mode = kept
	}
	s.outdate(r, oldVersion)
	return done
}

func (s *state) applyBlock(c *Config, r request) uint8 {
	creates := r.kind == createLeased || r.kind == createShared
	switch {
	case creates && s.block.mode != absent:
		return exists
	case r.kind == createLeased:
		s.block = blockObject{mode: leased, owner: r.node, age: r.age}
	case r.kind == createShared:
		s.block = blockObject{mode: shared}
	case s.block.mode == absent && r.kind == deleteBlock:
		return done
	case s.block.mode == absent || !c.matches(r):
		return refused
	case r.kind == toShared:
		s.block = blockObject{mode: shared}
		s.outdate(r, oldVersion)
	case r.kind == touchBlock:
		s.outdate(r, oldVersion)
	case r.kind == takeBlock:
		s.block.age = r.age
		s.outdate(r, oldVersion)
	case r.kind == deleteBlock:
		s.block = blockObject{}
		s.outdate(r, oldObject)
	}
	return done
}

// outdate ages every reference to the object of r.
func (s *state) outdate(r request, age uint8) {
	older := func(ref *uint8) {
		if *ref == current || *ref == oldVersion && age == oldObject {
			*ref = age
		}
	}
	same := func(other request) bool {
		return other.kind != noRequest && other.onBlock() == r.onBlock() && (r.onBlock() || other.addr == r.addr)
	}
	for i := range s.nodes {
		if r.onBlock() {
			older(&s.nodes[i].ref)
		}
		if same(s.nodes[i].request) {
			older(&s.nodes[i].request.ref)
		}
	}
	for i := range s.late {
		if same(s.late[i]) {
			older(&s.late[i].ref)
		}
	}
}

// normal gives states that can't be told apart one form: late requests that
// can never match again are gone, the others are sorted, and fields without
// meaning are zero.
func (s *state) normal(c *Config) {
	agesMatter := c.Without == DeleteVersion || c.Without == DeleteUID
	for i := range s.claims {
		if s.claims[i].mode == kept { // its last sandbox means nothing any more
			s.claims[i] = claimObject{mode: kept, keep: s.claims[i].keep}
		}
	}
	for i := range s.nodes {
		n := &s.nodes[i]
		if n.block == noBlock {
			n.ref = noRef
		}
		if n.ref == oldObject && !agesMatter {
			n.ref = oldVersion
		}
		if n.request.ref == oldObject && !agesMatter {
			n.request.ref = oldVersion
		}
	}
	for i := range s.boxes {
		b := &s.boxes[i]
		if b.life != live {
			b.addr, b.lost = 0, false
		}
		if b.record == noRecord {
			b.recordAddr = 0
		}
	}
	for i, r := range s.late {
		if r.kind != createLeased && r.kind != takeBlock && r.kind != createClaim && r.kind != takeClaim {
			s.late[i].age = present // nothing gets it
		}
		hopeless := r.ref == oldVersion && c.Without != DeleteVersion || r.ref != current && !r.isDelete() || !agesMatter && r.ref != current
		if r.conditional() && hopeless && !c.blind(r) {
			s.late[i] = request{}
		}
	}
	if c.Late > 1 {
		slices.SortFunc(s.late[:], func(a, b request) int { return int(a.order()) - int(b.order()) })
	}
}

func (r request) order() uint32 {
	var p packer
	p.request(r)
	return uint32(p.bits[0])
}

// giveUp takes the node's request off its hands: a sent one becomes late if
// there is room for it, or is lost; a reply is lost.
func (s *state) giveUp(c *Config, n uint8) {
	r := s.nodes[n].request
	s.nodes[n].request = request{}
	if r.kind != noRequest && r.status == sent {
		s.addLate(c, r)
	}
}

// addLate puts a request on its way with nobody waiting for it; false when all
// places are taken.
func (s *state) addLate(c *Config, r request) bool {
	for i := range c.Late {
		if s.late[i].kind == noRequest {
			s.late[i] = r
			return true
		}
	}
	return false
}
