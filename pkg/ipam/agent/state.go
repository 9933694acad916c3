package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/block"
)

// stage is how far our hold on a block is.
type stage string

const (
	stageReady     stage = "ready"
	stageReturning stage = "returning"
	// stageFormer: leased in an earlier boot; it must be taken over before use.
	stageFormer stage = "former"
)

// state is what the log says. It changes by apply alone, so that a restart
// comes to the same; it isn't safe for concurrent use.
type state struct {
	node    ipam.Node
	spaces  map[string]ipam.Space
	blocks  map[ipam.BlockRef]*held
	records map[ipam.Key]*record
	// intents are keys whose claim may be under way.
	intents map[ipam.Key]*record
	// cooling are claims of released addresses that are still to be given up.
	cooling map[ipam.ClaimRef]*cooling
	// bySpace lists the blocks of a space in the order in which they came.
	bySpace map[string][]*held
	// open are those of them that may have a free address.
	open map[string][]*held
	// vague are the keys of records that don't know all of their name.
	vague map[ipam.Key]bool
	// owners finds the key of a claimed address.
	owners map[ipam.ClaimRef]ipam.Key
}

// held is a block of ours.
type held struct {
	ref     ipam.BlockRef
	stage   stage
	version ipam.Version
	// suspect: addresses that were not yet used by us are asked for first.
	suspect bool
	block   *block.Block
	// since is when we got it: its addresses weren't free for us before.
	since block.Tick
	// open says that it is listed in state.open.
	open bool
	// What the log doesn't say:
	asked map[netip.Addr]bool          // suspect addresses that nobody answered for
	avoid map[netip.Addr]time.Duration // somebody answered for them; until when they rest
	last  map[netip.Addr]*record       // who had a free address before
	dirty bool                         // the mirror is behind
	empty time.Duration                // when it was first seen empty, by the agent's clock; 0 is never
}

// cooling is a claim whose address was released.
type cooling struct {
	version ipam.Version
	owner   ipam.Key
	keep    ipam.Keeper
	// due is when the address may be used again, by the agent's clock.
	due time.Duration
	// told: the claim says Cooling or Kept already.
	told bool
	// last is who had it; nil after a restart.
	last *record
}

func newState() *state {
	return &state{
		spaces: map[string]ipam.Space{}, blocks: map[ipam.BlockRef]*held{},
		records: map[ipam.Key]*record{}, intents: map[ipam.Key]*record{},
		cooling: map[ipam.ClaimRef]*cooling{}, bySpace: map[string][]*held{}, open: map[string][]*held{},
		owners: map[ipam.ClaimRef]ipam.Key{}, vague: map[ipam.Key]bool{},
	}
}

// apply makes the change of one entry at a time of the agent's clock.
func (s *state) apply(e entry, now time.Duration) error {
	switch e.Op {
	case opLife:
		s.live(*e.Node, now)
	case opSpace:
		s.spaces[e.Space.Name] = *e.Space
	case opReady:
		return s.ready(*e.Block, *e.Version, e.Suspect, now)
	case opReturning:
		if b := s.blocks[*e.Block]; b != nil {
			b.stage = stageReturning
		}
	case opGone:
		s.gone(*e.Block)
	case opIntent:
		s.intents[e.Record.Owner.Key] = e.Record
	case opDrop:
		delete(s.intents, *e.Key)
		if e.Record != nil {
			s.coolClaims(e.Record, now+s.rest(e.Record, ""))
		}
	case opGrant:
		return s.grant(e.Record)
	case opHeld:
		s.hold(*e.Key, *e.Claim, *e.Version)
	case opRelease:
		return s.release(*e.Key, now)
	case opLeft:
		delete(s.cooling, *e.Claim)
	default:
		return fmt.Errorf("IPAM log: record %q is unknown: was it written by a newer version?", e.Op)
	}
	return nil
}

// admits says why an entry can't be applied. It must not get into the log then:
// no agent could start on that log again.
func (s *state) admits(e entry) error {
	switch e.Op {
	case opReady:
		if _, err := block.New(e.Block.Prefix, 0); err != nil {
			return fmt.Errorf("IPAM: %w", err)
		}
	case opGrant:
		key := block.Key(e.Record.Owner.Key.String())
		for _, p := range e.Record.Places {
			b := s.blockOf(p.Space, p.Addr)
			if !p.InBlock {
				continue
			}
			if b == nil || len(key) > block.MaxKey {
				return fmt.Errorf("IPAM: %s can't be granted to %s: its block isn't there, or the key is too long", p.ref(), key)
			}
			if owner, taken := b.block.Owner(p.Addr); taken && owner != key {
				return fmt.Errorf("%w: %s can't be granted to %s: it belongs to %s", ipam.ErrTaken, p.ref(), key, owner)
			}
		}
	}
	return nil
}

// live begins a life. Another boot means that all sandboxes are gone: claims
// are to be given up, and blocks must be taken over before they are used.
func (s *state) live(n ipam.Node, now time.Duration) {
	reboot := s.node.Boot != "" && s.node.Boot != n.Boot
	s.node = n
	if !reboot {
		return
	}
	for _, key := range sortedBy(s.records, ipam.Key.String) {
		s.drop(key, now)
	}
	clear(s.intents)
	for _, b := range s.blocks {
		b.stage = stageFormer
	}
}

func (s *state) ready(ref ipam.BlockRef, v ipam.Version, suspect bool, now time.Duration) error {
	b := s.blocks[ref]
	if b == nil {
		fresh, err := block.New(ref.Prefix, ticks(s.cooldown(ref.Space)))
		if err != nil {
			return err
		}
		b = &held{ref: ref, block: fresh, since: ticks(now)}
		s.list(b)
	}
	b.stage, b.version, b.suspect = stageReady, v, suspect
	return nil
}

// list takes a block in.
func (s *state) list(b *held) {
	s.blocks[b.ref] = b
	s.bySpace[b.ref.Space] = append(s.bySpace[b.ref.Space], b)
	s.reopen(b)
}

// reopen lists a block that may have a free address.
func (s *state) reopen(b *held) {
	if !b.open {
		b.open = true
		s.open[b.ref.Space] = append(s.open[b.ref.Space], b)
	}
}

// free are the blocks of a space that have a free address.
func (s *state) free(space string) []*held {
	s.open[space] = slices.DeleteFunc(s.open[space], func(b *held) bool {
		b.open = !b.block.IsFull() && s.blocks[b.ref] == b
		return !b.open
	})
	return s.open[space]
}

// gone takes a block away. What is still assigned in it has a claim, or none
// (and is missed by protect).
func (s *state) gone(ref ipam.BlockRef) {
	b := s.blocks[ref]
	if b == nil {
		return
	}
	delete(s.blocks, ref)
	s.bySpace[ref.Space] = slices.DeleteFunc(s.bySpace[ref.Space], func(other *held) bool { return other == b })
	for _, r := range s.records {
		for i := range r.Places {
			if p := &r.Places[i]; p.Space == ref.Space && ref.Prefix.Contains(p.Addr) {
				p.InBlock = false
			}
		}
	}
}

func (s *state) grant(r *record) error {
	delete(s.intents, r.Owner.Key)
	for _, p := range r.Places {
		if p.InBlock {
			b := s.blockOf(p.Space, p.Addr)
			if b == nil {
				return fmt.Errorf("IPAM log: %s was granted in a block that isn't there", p.ref())
			}
			if err := b.block.Assign(p.Addr, block.Key(r.Owner.Key.String())); err != nil {
				return fmt.Errorf("IPAM log: %w", err)
			}
			b.dirty = true
			delete(b.last, p.Addr)
		}
		if p.Claim != nil {
			delete(s.cooling, p.ref())
			s.owners[p.ref()] = r.Owner.Key
		}
	}
	s.record(r)
	return nil
}

// record takes a record in.
func (s *state) record(r *record) {
	key := r.Owner.Key
	s.records[key] = r
	if key.IfName == ipam.Unknown || key.Network == ipam.Unknown {
		s.vague[key] = true
	}
}

// forget takes it out.
func (s *state) forget(key ipam.Key) {
	delete(s.records, key)
	delete(s.vague, key)
}

func (s *state) hold(key ipam.Key, ref ipam.ClaimRef, v ipam.Version) {
	r := s.records[key]
	if r == nil {
		return
	}
	for i := range r.Places {
		if r.Places[i].ref() == ref {
			r.Places[i].Claim = &v
			s.owners[ref] = key
			delete(s.cooling, ref)
		}
	}
}

func (s *state) release(key ipam.Key, now time.Duration) error {
	delete(s.intents, key)
	r := s.records[key]
	if r == nil {
		return nil
	}
	for _, p := range r.Places {
		if b := s.blockOf(p.Space, p.Addr); p.InBlock && b != nil {
			if err := b.block.ReleaseFor(p.Addr, block.Key(key.String()), ticks(now), ticks(s.rest(r, p.Space))); err != nil {
				return fmt.Errorf("IPAM log: %w", err)
			}
			b.dirty = true
			s.reopen(b)
			if b.last == nil {
				b.last = map[netip.Addr]*record{}
			}
			b.last[p.Addr] = r
		}
	}
	s.coolClaims(r, now+s.rest(r, ""))
	s.forget(key)
	return nil
}

// drop is release after a reboot: what was in a block is not released but
// forgotten, for nobody is left who had it.
func (s *state) drop(key ipam.Key, now time.Duration) {
	r := s.records[key]
	for _, p := range r.Places {
		if b := s.blockOf(p.Space, p.Addr); p.InBlock && b != nil {
			_ = b.block.ReleaseFor(p.Addr, block.Key(key.String()), 0, 0) // it is the owner's key: it can't fail
			s.reopen(b)
		}
	}
	s.coolClaims(r, now)
	s.forget(key)
}

// coolClaims puts the claims of a released record on the list of those to give
// up. What an IPAMClaim keeps isn't ours to give up.
func (s *state) coolClaims(r *record, due time.Duration) {
	for _, p := range r.Places {
		if p.Claim == nil {
			continue
		}
		delete(s.owners, p.ref())
		if r.Keep.Kind != ipam.KeepClaim {
			c := &cooling{version: *p.Claim, owner: r.Owner.Key, keep: r.Keep, due: due, last: r}
			if r.Orphan {
				c.last = nil // no sandbox to wait for
			}
			s.cooling[p.ref()] = c
		}
	}
}

func (s *state) blockOf(space string, addr netip.Addr) *held {
	settings, ok := s.spaces[space]
	if !ok {
		return nil
	}
	return s.blocks[ipam.BlockRef{Space: space, Prefix: settings.Grid.Block(addr)}]
}

func (s *state) cooldown(space string) time.Duration {
	if c := s.spaces[space].Cooldown; c > 0 {
		return c
	}
	return ipam.DefaultCooldown
}

// rest is how long an address of r cools; an empty space is any of r's.
func (s *state) rest(r *record, space string) time.Duration {
	if r.Cooldown > 0 {
		return r.Cooldown
	}
	if space == "" && len(r.Places) > 0 {
		space = r.Places[0].Space
	}
	return s.cooldown(space)
}

// ticks are milliseconds of the agent's clock.
func ticks(d time.Duration) block.Tick { return block.Tick(d.Milliseconds()) }
