package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
	"github.com/meta-cni/meta-cni/pkg/wal"
)

// Log keeps entries; *wal.Log is it, by Disk.
type Log interface {
	// Append orders a record; an error means that nothing was ordered.
	Append(record []byte) (Ticket, error)
	// AppendReserved works on a full disk too, for a while.
	AppendReserved(record []byte) (Ticket, error)
	// Compact puts a snapshot in place of all records so far.
	Compact(snapshot []byte) error
	Compacting() bool
	// Size is the bytes of the records since the last snapshot.
	Size() int64
	// Broken is why the log can't be used any more, or nil.
	Broken() error
	Close() error
}

// Ticket is a record on its way to the disk.
type Ticket interface{ Wait() error }

// Alarm is something that an operator must see: about a pod, or the node.
type Alarm struct {
	Owner   ipam.Owner
	Reason  string
	Message string
}

// Options of an Agent.
type Options struct {
	Store ipam.Store
	// Node says which machine in which boot; Log is filled in.
	Node ipam.Node
	// Alive is false only when the sandbox certainly is gone and no request for
	// it is under way; nil takes all for alive.
	Alive func(owner ipam.Owner, netns string) bool
	// Alarm is told what an operator must see; it doesn't wait.
	Alarm func(Alarm)
	// Clock is the time since the boot (CLOCK_BOOTTIME).
	Clock func() time.Duration
	// Asked rings when others may have asked for a block; nil: it is looked up
	// every few seconds.
	Asked <-chan struct{}
	// MayAllocate is nil, or says why this node may not at present (its Node
	// object is gone). It doesn't wait.
	MayAllocate func() error
	Log         *slog.Logger
}

// Agent is the allocator of one node.
type Agent struct {
	opts Options
	log  Log
	now  func() time.Duration

	mu       sync.Mutex
	state    *state
	failed   error // a record that could be ordered but not applied: a defect
	reserved map[ipam.ClaimRef]ipam.Key
	turns    map[ipam.Key]*turn
	spaces   map[string]*space
	sights   map[ipam.Key]time.Duration // dead sandboxes, when they were first seen so
	snapped  int64                      // bytes of the last snapshot
	unsnap   int64                      // bytes of records at which one failed last
	ahead    map[string]aheadNeed       // by space: ranges that are short of addresses
	refused  map[string]error           // spaces that nothing may be given of
	scan     bool                       // a write had no clear outcome: look what it made

	nodeCount int
	nodesAt   time.Duration
	counting  sync.Mutex // of nodes: one at a time

	kick      chan struct{} // background work waits
	aheadKick chan struct{}
	coolKick  chan struct{}
}

// space is what the agent knows of a space besides the log; all of it is a
// hint.
type space struct {
	// opening is held while the space is read, leasing while a block is taken,
	// claiming while a claim is made.
	opening  chan struct{}
	leasing  chan struct{}
	claiming chan struct{}
	view     map[netip.Prefix]sight
	viewed   time.Duration
	cursor   *iprange.Uint128 // where the next block is looked for, and
	claimed  *iprange.Uint128 // the block in which the last claim was made
}

// sight is what was seen of another's block.
type sight struct {
	mode    ipam.BlockMode
	owner   ipam.Node
	suspect bool
}

func sightOf(b ipam.Block) sight { return sight{mode: b.Mode, owner: b.Owner, suspect: b.Suspect} }

// claimsAtOnce bounds the claims under way in a space: more of them at once
// would get into each other's way where a range is nearly full.
const claimsAtOnce = 2

// Open makes an agent of what the log recovered. Nothing is read of the store
// before Run or the first request.
func Open(log Log, recovered wal.Recovered, o Options) (*Agent, error) {
	if o.Alive == nil {
		o.Alive = func(ipam.Owner, string) bool { return true }
	}
	if o.Alarm == nil {
		o.Alarm = func(Alarm) {}
	}
	if o.MayAllocate == nil {
		o.MayAllocate = func() error { return nil }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Node.Name == "" || o.Node.Boot == "" {
		return nil, errors.New("IPAM: the node's name or boot ID is empty")
	}
	s, err := replay(recovered, o.Node.Boot)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		opts: o, log: log, now: o.Clock, state: s,
		reserved: map[ipam.ClaimRef]ipam.Key{}, turns: map[ipam.Key]*turn{}, spaces: map[string]*space{},
		sights: map[ipam.Key]time.Duration{},
		ahead:  map[string]aheadNeed{}, refused: map[string]error{},
		kick: make(chan struct{}, 1), aheadKick: make(chan struct{}, 1), coolKick: make(chan struct{}, 1),
	}
	return a, a.begin()
}

// replay comes to the state that the log tells. What happened in another boot
// counts as of this boot's begin.
func replay(recovered wal.Recovered, boot string) (*state, error) {
	s, err := decodeState(recovered.Snapshot, boot)
	if err != nil {
		return nil, err
	}
	for _, data := range recovered.Records {
		e, err := decode(data)
		if err == nil {
			at := e.At
			if begins := e.Op == opLife && e.Node.Boot == boot; s.node.Boot != boot && !begins {
				at = 0
			}
			err = s.apply(e, at)
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// begin logs this life and forgets intents: their ADDs were never answered, and
// a claim that one of them made is found by Scan.
func (a *Agent) begin() error {
	node := a.opts.Node
	node.Log = a.state.node.Log
	if node.Log == "" {
		node.Log = rand.Text()
	}
	if node.UID == "" && node.Name == a.state.node.Name {
		node.UID = a.state.node.UID
	}
	entries := []entry{{Op: opLife, Node: &node}}
	for key := range a.state.intents {
		entries = append(entries, entry{Op: opDrop, Key: &key})
		a.scan = true
	}
	return a.write(entries...)
}

// Node is this life of the node.
func (a *Agent) Node() ipam.Node {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state.node
}

// Registered tells the UID of the Node object; another one than before is
// written into all objects of this node by the next Scan.
func (a *Agent) Registered(uid string) error {
	node := a.Node()
	if node.UID == uid {
		return nil
	}
	node.UID = uid
	return a.write(entry{Op: opLife, Node: &node})
}

// Close closes the log; Run has returned before.
func (a *Agent) Close() error { return a.log.Close() }

// write orders entries, applies them and waits until they are on the disk.
func (a *Agent) write(entries ...entry) error {
	a.mu.Lock()
	return a.writeUnlock(entries...)
}

// writeUnlock is write for who has the agent's lock, because the entries follow
// from what was seen under it; it gives the lock back before it waits.
func (a *Agent) writeUnlock(entries ...entry) error {
	t, err := a.order(a.log.Append, entries...)
	a.mu.Unlock()
	if err != nil {
		return err
	}
	return t.Wait()
}

// order orders and applies entries under the agent's lock. The ticket is the
// last one's: it is on the disk after all others.
func (a *Agent) order(appendTo func([]byte) (Ticket, error), entries ...entry) (Ticket, error) {
	var last Ticket
	if a.failed != nil {
		return nil, a.failed
	}
	for _, e := range entries {
		e.At = a.now()
		if err := a.state.admits(e); err != nil {
			return nil, err
		}
		data, err := e.encode()
		if err != nil {
			return nil, err
		}
		t, err := appendTo(data)
		if err != nil {
			return nil, fmt.Errorf("%w: the IPAM's log can't be written: %w", ipam.ErrNotReady, err)
		}
		if err := a.state.apply(e, e.At); err != nil {
			a.failed = err
			return nil, err
		}
		last = t
	}
	a.compact()
	return last, nil
}

const (
	compactAt   = 1 << 20 // bytes of records
	compactGrow = 2       // and this many times the last snapshot
	compactWait = 1 << 16 // bytes of records between tries that fail
)

// compact replaces a long log by a snapshot. A failure is the log's own and
// shows at the next record.
func (a *Agent) compact() {
	size := a.log.Size()
	if size < a.unsnap {
		a.unsnap = 0
	}
	if size < compactAt || size < compactGrow*a.snapped || a.unsnap > 0 && size < a.unsnap+compactWait || a.log.Compacting() {
		return
	}
	data, err := a.state.encode(a.now())
	if err == nil {
		err = a.log.Compact(data)
	}
	if err != nil {
		a.opts.Log.Error("the IPAM's log can't be shortened", "error", err.Error())
		a.unsnap = size
		return
	}
	a.unsnap = 0
	a.snapped = int64(len(data))
}

// Broken is nil, or says why nothing can be given out or back until the agent
// is opened anew.
func (a *Agent) Broken() error {
	a.mu.Lock()
	failed := a.failed
	a.mu.Unlock()
	if failed != nil {
		return failed
	}
	if err := a.log.Broken(); err != nil {
		return fmt.Errorf("%w: the IPAM's log: %w", ipam.ErrNotReady, err)
	}
	return nil
}

// Ready is nil, or says in words why Allocate can't work.
func (a *Agent) Ready() error {
	if err := a.Broken(); err != nil {
		return err
	}
	return a.opts.MayAllocate()
}

// turn orders the calls for one key.
type turn struct {
	free    chan struct{}
	waiting int
}

// enter waits for the turn of a key.
func (a *Agent) enter(ctx context.Context, key ipam.Key) (leave func(), err error) {
	a.mu.Lock()
	t := a.turns[key]
	if t == nil {
		t = &turn{free: make(chan struct{}, 1)}
		a.turns[key] = t
	}
	t.waiting++
	a.mu.Unlock()
	done := func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if t.waiting--; t.waiting == 0 {
			delete(a.turns, key)
		}
	}
	select {
	case t.free <- struct{}{}:
		return func() { <-t.free; done() }, nil
	case <-ctx.Done():
		done()
		return nil, fmt.Errorf("%w: another call for %s is still running: %w", ipam.ErrNotReady, key, context.Cause(ctx))
	}
}

// hints are what is known of a space besides the log.
func (a *Agent) hints(name string) *space {
	a.mu.Lock()
	defer a.mu.Unlock()
	sp := a.spaces[name]
	if sp == nil {
		sp = &space{
			opening: make(chan struct{}, 1), leasing: make(chan struct{}, 1), claiming: make(chan struct{}, claimsAtOnce),
			view: map[netip.Prefix]sight{}, viewed: -time.Hour,
		}
		a.spaces[name] = sp
	}
	return sp
}

// take takes a place in a channel that serves as a lock.
func take(ctx context.Context, lock chan struct{}, what string) (release func(), err error) {
	select {
	case lock <- struct{}{}:
		return func() { <-lock }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %s: %w", ipam.ErrNotReady, what, context.Cause(ctx))
	}
}

// wantScan has the store searched for what a write without a clear outcome may
// have made.
func (a *Agent) wantScan() {
	a.mu.Lock()
	a.scan = true
	a.mu.Unlock()
	a.wake()
}

// wake has the background work looked at soon.
func (a *Agent) wake() {
	for _, kick := range []chan struct{}{a.kick, a.coolKick} {
		select {
		case kick <- struct{}{}:
		default:
		}
	}
}
