package model

// agent is the protocol: every step that a running agent may take by itself.
func (x *expander) agent(s *state, n uint8) {
	for b := n; int(b) < x.c.Sandboxes; b += nodes {
		x.answer(s, n, b)
	}
	me := s.nodes[n]
	if me.block == ready {
		next := *s
		next.nodes[n].block = returning
		x.add(next, edge{what: evReturning, node: n})
	}
	if me.block == returning && x.c.Without == TouchCancel {
		next := *s
		next.nodes[n].block = ready
		x.add(next, edge{what: evCancel, node: n})
	}
	if s.block.mode == shared && !me.knowsShared || me.block == returning && me.ref == noRef {
		next := *s
		next.reread(n)
		x.add(next, edge{what: evLearn, node: n})
	}
	x.observe(s, n)
	switch {
	case me.request.kind == noRequest:
		x.requests(s, n)
	case me.request.status != sent:
		next := *s
		next.handle(x.c, n)
		x.add(next, edge{what: evHandle, node: n, request: me.request})
	}
}

// answer is what needs the log only: ADD in a held block, replies, DEL.
func (x *expander) answer(s *state, n, b uint8) {
	me, it := s.nodes[n], s.boxes[b]
	step := edge{node: n, box: b, addr: it.recordAddr}
	next := *s
	switch {
	case it.life == deleting:
		next.boxes[b].life = idle
		next.drop(x.c, b)
		step.what = evRelease
		x.add(next, step)
	case it.life != adding:
	case it.record == assigned || it.record == held:
		next.boxes[b].life, next.boxes[b].addr = live, it.recordAddr
		step.what = evReply
		x.add(next, step)
	default:
		next.boxes[b].life = idle
		next.drop(x.c, b)
		step.what = evFail
		x.add(next, step)
		if it.record == noRecord {
			open := me.block == ready || me.block == returning && x.c.Without == ReturningIsClosed
			x.record(s, step, assigned, open && !x.c.keeper(b))
			x.record(s, step, intent, me.knowsShared || x.c.Without == ClaimNeedsShared)
		}
	}
}

// record logs what is about to be used, for each address that the log has not
// given away.
func (x *expander) record(s *state, step edge, record uint8, allowed bool) {
	for a := range uint8(x.c.Addresses) {
		if !allowed || s.taken(step.node, a) {
			continue
		}
		next := *s
		it := &next.boxes[step.box]
		it.record, it.recordAddr = record, a
		step.what, step.addr = evAssign, a
		if record == intent {
			step.what = evIntent
		} else if x.c.Without == LogBeforeReply {
			*it = box{life: live, addr: a}
			step.what = evReply
		}
		x.add(next, step)
	}
}

// requests are the API requests that an agent without one may send.
func (x *expander) requests(s *state, n uint8) {
	me := s.nodes[n]
	if me.block == noBlock && !me.knowsShared {
		if s.block.mode == absent || s.mine(n) {
			x.send(s, n, request{kind: createLeased})
		}
		if s.block.mode == absent {
			x.send(s, n, request{kind: createShared})
		}
		if s.leasedBy(n, oldBoot) || s.leasedBy(n, lostLog) && x.c.Without == OldLogUnused {
			x.send(s, n, request{kind: takeBlock, ref: current})
		}
	}
	if x.c.open(me) {
		x.leave(s, n)
	}
	x.claimRequests(s, n)
}

// leave are the three ways out of returning: delete, demote, cancel.
func (x *expander) leave(s *state, n uint8) {
	ref := s.nodes[n].ref
	unused := !s.has(n, assigned)
	if (unused || x.c.Without == ReturnNeedsNoUse) && (!s.has(n, held) || x.c.Without == ReturnNeedsNoHeld) {
		x.send(s, n, request{kind: deleteBlock, ref: ref})
	}
	if unused || x.c.Without == DemoteNeedsClaims {
		x.send(s, n, request{kind: toShared, ref: ref})
	}
	x.send(s, n, request{kind: touchBlock, ref: ref})
}

func (x *expander) send(s *state, n uint8, r request) {
	next := *s
	r.node = n
	next.nodes[n].request = r
	x.add(next, edge{what: evSend, node: n, box: r.box, addr: r.addr, request: r})
}

// handle is the agent reading a reply and writing its log. The GET after
// "already exists" is part of it: what it reads is used with its reference,
// so that it may be old is seen by the API server.
func (s *state) handle(c *Config, n uint8) {
	me := &s.nodes[n]
	r := me.request
	me.request = request{}
	switch r.kind {
	case createLeased:
		s.tookBlock(c, n, r)
	case createShared:
		if r.status == done || s.block.mode == shared {
			me.knowsShared = true
		}
	case toShared:
		if r.status == done {
			me.block, me.knowsShared = noBlock, true
			return
		}
		s.reread(n)
	case deleteBlock:
		if r.status == done {
			me.block = noBlock
			return
		}
		s.reread(n)
	case touchBlock, takeBlock:
		if r.status == done {
			me.block, me.ref = ready, r.ref
			return
		}
		s.reread(n)
	case createClaim, touchClaim, takeClaim:
		s.tookClaim(c, n, r)
	}
}

// tookBlock: 201 makes the block usable; an own one that exists is touched
// first.
func (s *state) tookBlock(c *Config, n uint8, r request) {
	me := &s.nodes[n]
	switch {
	case r.status == done:
		me.block, me.ref = ready, r.ref
	case s.mine(n) && c.Without == TouchBlock:
		me.block, me.ref = ready, current
	case s.mine(n):
		me.request = request{kind: touchBlock, node: n, ref: current}
	case s.block.mode == shared:
		me.knowsShared = true
	}
}

// reread is a GET of the block: the log follows what is found.
func (s *state) reread(n uint8) {
	me := &s.nodes[n]
	switch {
	case s.block.mode == shared:
		me.block, me.knowsShared = noBlock, true
	case !s.mine(n):
		me.block = noBlock
	case me.block != noBlock:
		me.ref = current
	}
}

// validate is the start of an agent: sandboxes that are gone are released. A
// ready block of this boot is used as it is, without a read: nobody takes it
// from a node that has power. One that is being returned is read first.
func (s *state) validate(c *Config, n uint8) {
	for b := range s.boxes {
		if home(uint8(b)) == n && s.boxes[b].life == idle {
			s.boxes[b].record = noRecord
		}
	}
	if s.nodes[n].block == returning && c.Without != ReturningReread {
		s.nodes[n].ref = noRef
	}
}

// taken says whether the log of n has given addr away.
func (s *state) taken(n, addr uint8) bool {
	for b, it := range s.boxes {
		if home(uint8(b)) == n && it.record != noRecord && it.recordAddr == addr {
			return true
		}
	}
	return false
}

// has says whether the log of n has such a record.
func (s *state) has(n, record uint8) bool {
	for b, it := range s.boxes {
		if home(uint8(b)) == n && it.record == record {
			return true
		}
	}
	return false
}
