package model

// Bounds of the packed form; a Config stays within them.
const (
	nodes     = 2
	maxBoxes  = 3
	maxAddrs  = 2
	maxLate   = 2
	maxCrash  = 7
	collector = nodes // the sender of the controller's requests
)

// Modes of the block object.
const (
	absent uint8 = iota
	leased
	shared
)

// Power of a node and its agent.
const (
	off    uint8 = iota // power lost: its sandboxes are gone
	killed              // kill -9, or not yet started: sandboxes may live
	up
)

// What the synced log of a node says of the block.
const (
	noBlock uint8 = iota
	ready
	returning // also while a demotion is under way
)

// Modes of a claim object.
const (
	noClaim uint8 = iota
	bound         // a sandbox has the address
	cooling       // nobody has it, and anybody may take it over
	kept          // nobody has it, and only its keeper may
)

// Whose an object or a request is, as its node sees it. The words on it are
// the boot and the name of the log; what is not present was made by a life of
// the node of which its log says nothing.
const (
	present  uint8 = iota
	lostLog        // of this boot, but by a log that is lost: its sandboxes may live
	oldBoot        // from before a power loss: its sandboxes are gone
	imported       // no log: somebody wrote it for a sandbox that ran already
)

// What the synced log says of a sandbox.
const (
	noRecord uint8 = iota
	assigned
	intent
	held
)

// Life of a sandbox as its runtime sees it.
const (
	idle     uint8 = iota
	adding         // ADD invoked, not answered
	live           // ADD answered with an address
	deleting       // DEL invoked, not answered
)

// A reference is the UID and resourceVersion that somebody remembers of an
// object. Only what they still match counts, so a reference is one of these,
// and no counter grows without end.
const (
	noRef   uint8 = iota
	current       // both match
	oldVersion
	oldObject // the object of that UID is deleted
)

// Kinds of API requests.
const (
	noRequest uint8 = iota
	createLeased
	createShared
	toShared
	touchBlock
	takeBlock // UPDATE of the boot, by the node whose block it was
	deleteBlock
	createClaim
	touchClaim
	deleteClaim
	takeClaim // UPDATE: of the sandbox of the sender from now on
	coolClaim // UPDATE to Cooling
	keepClaim // UPDATE to Kept
)

// How far a node's request is.
const (
	sent    uint8 = iota // not applied yet
	done                 // applied; ref is that of the reply
	refused              // a precondition didn't hold
	exists               // CREATE found an object of that name
)

// request is one API request, or its reply on the way back.
type request struct {
	kind, node, box, addr, ref, status uint8
	age                                uint8 // of its sender, by now
}

// blockObject is the IPBlock in the API.
type blockObject struct {
	mode, owner, age uint8
}

// claimObject is the IPClaim of one address; its node is the home of box.
type claimObject struct {
	mode, box, age uint8
	keep           bool // for the keeper
}

// node is one agent: its power, its log's word on the block, what it knows
// without the log, and the one request that it waits for. scanned is 1 + the
// address of which a scan without ScanReadsFirst thinks that nobody has it.
type node struct {
	power, block, ref uint8
	knowsShared       bool
	scanned           uint8
	request           request
}

// box is one sandbox: its life, the address of the reply, its record. lost says
// that it is live by a record in a lost log.
type box struct {
	life, addr, record, recordAddr uint8
	lost                           bool
}

// state is everything. late are the requests whose sender gave up or died:
// each may be applied at any later time, or never.
type state struct {
	block   blockObject
	claims  [maxAddrs]claimObject
	nodes   [nodes]node
	boxes   [maxBoxes]box
	late    [maxLate]request
	crashes uint8
}

// key is a state in 128 bits.
type key [2]uint64

type packer struct {
	bits key
	at   uint
}

func (p *packer) put(value uint8, width uint) {
	if p.at+width > 64 && p.at < 64 {
		p.at = 64
	}
	p.bits[p.at/64] |= uint64(value) << (p.at % 64)
	p.at += width
}

func (p *packer) flag(value bool) {
	if value {
		p.put(1, 1)
		return
	}
	p.put(0, 1)
}

func (p *packer) get(width uint) uint8 {
	if p.at+width > 64 && p.at < 64 {
		p.at = 64
	}
	value := p.bits[p.at/64] >> (p.at % 64) & (1<<width - 1)
	p.at += width
	return uint8(value)
}

func (p *packer) request(r request) {
	p.put(r.kind, 4)
	p.put(r.node, 2)
	p.put(r.box, 2)
	p.put(r.addr, 1)
	p.put(r.ref, 2)
	p.put(r.status, 2)
	p.put(r.age, 2)
}

func (p *packer) getRequest() request {
	return request{
		kind: p.get(4), node: p.get(2), box: p.get(2), addr: p.get(1), ref: p.get(2), status: p.get(2),
		age: p.get(2),
	}
}

// pack writes all fields; with the gap at 64 they fit.
func (s *state) pack() key {
	var p packer
	s.packInto(&p)
	return p.bits
}

func (s *state) packInto(p *packer) {
	p.put(s.block.mode, 2)
	p.put(s.block.owner, 1)
	p.put(s.block.age, 2)
	for _, c := range s.claims {
		p.put(c.mode, 2)
		p.put(c.box, 2)
		p.put(c.age, 2)
		p.flag(c.keep)
	}
	for _, n := range s.nodes {
		p.put(n.power, 2)
		p.put(n.block, 2)
		p.put(n.ref, 2)
		p.flag(n.knowsShared)
		p.put(n.scanned, 2)
		p.put(n.request.kind, 4)
		p.put(n.request.box, 2)
		p.put(n.request.addr, 1)
		p.put(n.request.ref, 2)
		p.put(n.request.status, 2)
	}
	for _, b := range s.boxes {
		p.put(b.life, 2)
		p.put(b.addr, 1)
		p.put(b.record, 2)
		p.put(b.recordAddr, 1)
		p.flag(b.lost)
	}
	for _, r := range s.late {
		p.request(r)
	}
	p.put(s.crashes, 3)
}

// unpack is the reverse of pack.
func unpack(k key) state {
	p := packer{bits: k}
	var s state
	s.block = blockObject{mode: p.get(2), owner: p.get(1), age: p.get(2)}
	for i := range s.claims {
		s.claims[i] = claimObject{mode: p.get(2), box: p.get(2), age: p.get(2), keep: p.get(1) == 1}
	}
	for i := range s.nodes {
		n := &s.nodes[i]
		n.power, n.block, n.ref, n.knowsShared = p.get(2), p.get(2), p.get(2), p.get(1) == 1
		n.scanned = p.get(2)
		n.request = request{kind: p.get(4), box: p.get(2), addr: p.get(1), ref: p.get(2), status: p.get(2)}
		if n.request.kind != noRequest {
			n.request.node = uint8(i)
		}
	}
	for i := range s.boxes {
		s.boxes[i] = box{life: p.get(2), addr: p.get(1), record: p.get(2), recordAddr: p.get(1), lost: p.get(1) == 1}
	}
	for i := range s.late {
		s.late[i] = p.getRequest()
	}
	s.crashes = p.get(3)
	return s
}

// home is the node of a sandbox: they alternate.
func home(box uint8) uint8 { return box % nodes }

// mine says whether node n, in its present boot and log, holds the block.
func (s *state) mine(n uint8) bool { return s.leasedBy(n, present) }

func (s *state) leasedBy(n, age uint8) bool {
	return s.block.mode == leased && s.block.owner == n && s.block.age == age
}

// claimOf says whether the claim of addr is that of box, by its node's present
// boot and log.
func (s *state) claimOf(addr, box uint8) bool { return s.boundTo(addr, box, present) }

func (s *state) boundTo(addr, box, age uint8) bool {
	c := s.claims[addr]
	return c.mode == bound && c.box == box && c.age == age
}
