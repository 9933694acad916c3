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
		x.add(next, edge{what: evAdd, node: home(b), box: b})
	case adding, live:
		next.boxes[b].life = deleting
		x.add(next, edge{what: evDel, node: home(b), box: b})
	}
}

// power ends and starts agents and nodes.
func (x *expander) power(s *state, n uint8) {
	if s.nodes[n].power != off && int(s.crashes) < x.c.Crashes {
		next := *s
		next.giveUp(x.c, n)
		next.nodes[n].knowsShared = false
		next.crashes++
		if s.nodes[n].power == up {
			dead := next
			dead.nodes[n].power = killed
			x.add(dead, edge{what: evKill, node: n})
		}
		next.nodes[n].power = off
		for b := range next.boxes {
			if home(uint8(b)) == n {
				next.boxes[b].life = idle
			}
		}
		x.add(next, edge{what: evPowerOff, node: n})
	}
	next := *s
	switch s.nodes[n].power {
	case off:
		next.nodes[n].power = killed
		next.newEpoch(x.c, n)
		x.add(next, edge{what: evPowerOn, node: n})
	case killed:
		next.nodes[n].power = up
		next.validate(x.c, n)
		x.add(next, edge{what: evStart, node: n})
	}
}

// newEpoch makes everything foreign that the node did before it lost power.
func (s *state) newEpoch(c *Config, n uint8) {
	if c.Without == EpochCounts {
		return
	}
	if s.block.mode == leased && s.block.owner == n {
		s.block.oldEpoch = true
	}
	for i, claim := range s.claims {
		if claim.has && home(claim.box) == n {
			s.claims[i].oldEpoch = true
		}
	}
	for i, r := range s.late {
		if r.kind != noRequest && r.node == n {
			s.late[i].oldEpoch = true
		}
	}
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

// controller deletes what fenced nodes and older epochs left. It waits for no
// reply, so its requests are late from the start.
func (x *expander) controller(s *state) {
	fenced := func(n uint8) bool { return s.nodes[n].power == off || x.c.Without == FenceOnlyDead }
	if s.block.mode == leased && (s.block.oldEpoch || fenced(s.block.owner)) {
		x.collect(s, request{kind: deleteBlock})
	}
	if x.c.Without == SharedIsFinal && s.block.mode == shared && !s.claims[0].has && !s.claims[1].has {
		x.collect(s, request{kind: deleteBlock})
	}
	for a, claim := range s.claims {
		if !claim.has {
			continue
		}
		inFlight := x.c.Without == OwnerCollects && s.boxes[claim.box].life == adding
		if claim.oldEpoch || fenced(home(claim.box)) || inFlight {
			x.collect(s, request{kind: deleteClaim, addr: uint8(a)})
		}
	}
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
