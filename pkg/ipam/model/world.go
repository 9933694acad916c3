package model

// Event is one kind of step.
type event uint8

const (
	evAdd event = iota
	evDel
	evAssign
	evIntent
	evReply
	evFail
	evRelease
	evReturning
	evCancel
	evLearn
	evSend
	evApply
	evHandle
	evTimeout
	evKill
	evStart
	evPowerOff
	evPowerOn
	evLoseLog
	evGone
	evScan
	evCollect
	evLate
	evDrop
)

// edge is one step and where it leads.
type edge struct {
	to              state
	what            event
	node, box, addr uint8
	request         request
}

// expander lists the steps from a state.
type expander struct {
	c   *Config
	out []edge
}

// from gives all steps that s allows. The slice is valid until the next call.
func (x *expander) from(s *state) []edge {
	x.out = x.out[:0]
	for b := range uint8(x.c.Sandboxes) {
		x.runtime(s, b)
	}
	for n := range uint8(nodes) {
		x.power(s, n)
		x.network(s, n)
		if s.nodes[n].power == up {
			x.agent(s, n)
		}
	}
	x.controller(s)
	for i, r := range s.late {
		if r.kind == noRequest {
			continue
		}
		next := *s
		next.late[i] = request{}
		dropped := next
		next.apply(x.c, r)
		x.add(next, edge{what: evLate, node: r.node, request: r})
		x.add(dropped, edge{what: evDrop, node: r.node, request: r})
	}
	return x.out
}

func (x *expander) add(next state, e edge) {
	next.normal(x.c)
	e.to = next
	x.out = append(x.out, e)
}

// runtime is the one above: it asks for sandboxes and takes them away. The
// same sandbox may be asked for again, before and after a DEL.
func (x *expander) runtime(s *state, b uint8) {
	next := *s
	switch s.boxes[b].life {
	case idle:
		if s.nodes[home(b)].power != up {
			return
		}
		next.boxes[b].life = adding
		next.askAgain(x.c, b)
		x.add(next, edge{what: evAdd, node: home(b), box: b})
	case adding, live:
		next.boxes[b].life = deleting
		x.add(next, edge{what: evDel, node: home(b), box: b})
	}
}

// power ends and starts agents and nodes.
func (x *expander) power(s *state, n uint8) {
	mayCrash := int(s.crashes) < x.c.Crashes
	if mayCrash && s.nodes[n].power == up {
		next := *s
		next.kill(x.c, n)
		next.nodes[n].power = killed
		x.add(next, edge{what: evKill, node: n})
	}
	if s.nodes[n].power != off && (mayCrash || s.crippled(n)) {
		next := *s
		next.kill(x.c, n)
		next.nodes[n].power = off
		for b := range next.boxes {
			if home(uint8(b)) == n {
				next.boxes[b].life = idle
			}
		}
		x.add(next, edge{what: evPowerOff, node: n})
	}
	if s.nodes[n].power != off && mayCrash && x.c.With&LogLoss != 0 {
		x.loseLog(s, n)
	}
	next := *s
	switch s.nodes[n].power {
	case off:
		next.nodes[n].power = killed
		next.bootAfresh(x.c, n)
		x.add(next, edge{what: evPowerOn, node: n})
	case killed:
		next.nodes[n].power = up
		next.validate(x.c, n)
		x.add(next, edge{what: evStart, node: n})
	}
}

// bootAfresh makes everything foreign that the node did before it lost power.
// The log names the boot that it speaks of, so its block is not used but taken
// back.
func (s *state) bootAfresh(c *Config, n uint8) {
	if c.Without == BootCounts {
		return
	}
	s.age(n, oldBoot)
	if c.Without != TakeBack {
		s.nodes[n].block = noBlock
	}
}

// age makes the node's objects, and those that its late requests will make,
// older. An imported claim doesn't say of which life it is.
func (s *state) age(n, age uint8) {
	if s.block.mode == leased && s.block.owner == n {
		s.block.age = max(s.block.age, age)
	}
	for i, claim := range s.claims {
		if claim.mode != noClaim && claim.age != imported && home(claim.box) == n {
			s.claims[i].age = max(claim.age, age)
		}
	}
	for i, r := range s.late {
		if r.kind != noRequest && r.node == n {
			s.late[i].age = max(r.age, age)
		}
	}
}

// loseLog takes the log from an agent whose sandboxes live on; it starts again
// with an empty one of another name.
func (x *expander) loseLog(s *state, n uint8) {
	next := *s
	next.kill(x.c, n)
	next.nodes[n].power, next.nodes[n].block = killed, noBlock
	for b := n; int(b) < x.c.Sandboxes; b += nodes {
		next.boxes[b].record, next.boxes[b].lost = noRecord, true
	}
	next.age(n, lostLog)
	x.add(next, edge{what: evLoseLog, node: n})
}

// kill is what the end of an agent takes with it.
func (s *state) kill(c *Config, n uint8) {
	s.giveUp(c, n)
	s.nodes[n].knowsShared, s.nodes[n].scanned = false, 0
	s.crashes = min(s.crashes+1, uint8(c.Crashes))
}

// crippled says whether a log of n was lost in this boot. The next boot comes
// some day, and is not counted.
func (s *state) crippled(n uint8) bool {
	for _, claim := range s.claims {
		if claim.mode != noClaim && claim.age == lostLog && home(claim.box) == n {
			return true
		}
	}
	return s.leasedBy(n, lostLog)
}

// network carries a node's request to the API server, or lets it time out.
func (x *expander) network(s *state, n uint8) {
	r := s.nodes[n].request
	if r.kind == noRequest {
		return
	}
	if r.status == sent {
		next := *s
		next.nodes[n].request.status = sent
		status := next.apply(x.c, r)
		reply := &next.nodes[n].request
		reply.status, reply.ref = status, noRef
		if status == done && !r.isDelete() {
			reply.ref = current
		}
		x.add(next, edge{what: evApply, node: n, request: r})
	}
	next := *s
	next.giveUp(x.c, n)
	x.add(next, edge{what: evTimeout, node: n, request: r})
}

// controller frees what fenced nodes and older boots left. It waits for no
// reply, so its requests are late from the start.
func (x *expander) controller(s *state) {
	fenced := func(n, age uint8) bool {
		return s.nodes[n].power == off || age == oldBoot || x.c.Without == FenceOnlyDead ||
			age == lostLog && x.c.Without == OldLogCollected
	}
	if s.block.mode == leased && fenced(s.block.owner, s.block.age) {
		x.collect(s, request{kind: deleteBlock})
	}
	if x.c.Without == SharedIsFinal && s.block.mode == shared && s.claims[0].mode == noClaim && s.claims[1].mode == noClaim {
		x.collect(s, request{kind: deleteBlock})
	}
	for a, claim := range s.claims {
		switch {
		case claim.mode == noClaim:
		case claim.mode == kept:
			x.forget(s, uint8(a))
		case fenced(home(claim.box), claim.age) || x.c.Without == OwnerCollects && s.boxes[claim.box].life == adding:
			for _, kind := range x.c.frees(claim) {
				x.collect(s, request{kind: kind, addr: uint8(a)})
			}
		}
	}
}

// forget frees a Kept address when its keeper is gone. The word of that comes
// when none of the keeper's sandboxes is there.
func (x *expander) forget(s *state, a uint8) {
	for b, it := range s.boxes {
		if x.c.With&KeepClaim != 0 && x.c.keeper(uint8(b)) && (it.life == adding || it.life == live) && x.c.Without != ForgetUnused {
			return
		}
	}
	x.collect(s, request{kind: deleteClaim, addr: a})
}

func (x *expander) collect(s *state, r request) {
	r.node, r.ref = collector, current
	for _, other := range s.late {
		if other == r {
			return
		}
	}
	next := *s
	if next.addLate(x.c, r) {
		x.add(next, edge{what: evCollect, node: collector, request: r})
	}
}
