package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/block"
)

// lowWater is how few free addresses for a range make the agent lease the next
// block ahead of need.
const lowWater = 16

// conflictRest is how long an address rests that somebody answered for.
const conflictRest = 10 * time.Minute

const (
	// probeTries is how many addresses are tried that others answer for.
	probeTries = 3
	// moveTries is how often a request starts anew because a block was given up.
	moveTries = 5
)

// task is one Allocate under way.
type task struct {
	req    ipam.Request
	key    ipam.Key
	places []place
	tried  map[ipam.ClaimRef]bool
	// conflicts are addresses that a station answered for; aside those of them
	// that have a claim of ours.
	conflicts []error
	aside     []place
	// claims are those of ranges that were read, by space and range.
	claims map[string][]ipam.Claim
}

// errMoved says that a block was given up between the choice of an address and
// its record.
var errMoved = errors.New("the block was given up meanwhile")

// Allocate grants an address for each Want; see ipam.Allocator.
func (a *Agent) Allocate(ctx context.Context, req ipam.Request) ([]ipam.Address, error) {
	if err := check(req); err != nil {
		return nil, err
	}
	leave, err := a.enter(ctx, req.Owner.Key)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := a.Ready(); err != nil {
		return nil, err
	}
	if stands, err := a.former(ctx, req); stands != nil || err != nil {
		return stands, err
	}
	for range moveTries {
		got, err := a.allocate(ctx, req)
		if !errors.Is(err, errMoved) {
			return got, err
		}
	}
	return nil, unavailable(errMoved)
}

func (a *Agent) allocate(ctx context.Context, req ipam.Request) ([]ipam.Address, error) {
	t := &task{req: req, key: req.Owner.Key, tried: map[ipam.ClaimRef]bool{}}
	defer a.unreserve(t)
	for _, i := range exactFirst(req.Wants) {
		if err := a.acquire(ctx, t, i, req.Wants[i]); err != nil {
			return nil, errors.Join(err, a.giveUp(t))
		}
	}
	answer, err := a.grant(t)
	if err != nil {
		return nil, errors.Join(err, a.giveUp(t))
	}
	return answer, nil
}

// exactFirst orders wants so that none of any address takes one that another of
// the same request asks for by name.
func exactFirst(wants []ipam.Want) []int {
	order := make([]int, 0, len(wants))
	for _, exact := range []bool{true, false} {
		for i, w := range wants {
			if w.Addr.IsValid() == exact {
				order = append(order, i)
			}
		}
	}
	return order
}

func check(req ipam.Request) error {
	if err := req.Owner.Check(); err != nil {
		return err
	}
	if n := len(req.Owner.Key.String()); n > block.MaxKey {
		return fmt.Errorf("%w: container ID, interface and network's name have %d bytes together, at most %d can be kept: give the network a shorter name", ipam.ErrInvalid, n, block.MaxKey)
	}
	if len(req.Wants) == 0 {
		return fmt.Errorf("%w: no address is asked for", ipam.ErrInvalid)
	}
	for _, want := range req.Wants {
		if len(want.Ranges) == 0 {
			return fmt.Errorf("%w: a wanted address has no range", ipam.ErrInvalid)
		}
		for _, r := range want.Ranges {
			if err := errors.Join(ipam.CheckSpaceName(r.Space.Name), r.Space.Grid.Check()); err != nil {
				return fmt.Errorf("%w: range %s: %w", ipam.ErrInvalid, r.Text, err)
			}
		}
	}
	return nil
}

// former is the answer to an ADD that was answered before. Addresses of a
// request that asked for something else are released.
func (a *Agent) former(ctx context.Context, req ipam.Request) ([]ipam.Address, error) {
	a.mu.Lock()
	r := a.state.records[req.Owner.Key]
	a.mu.Unlock()
	if r == nil {
		return nil, nil
	}
	stands := fits(r, req)
	if stands && r.Keep.Kind == ipam.KeepClaim {
		kept, err := a.stillKept(ctx, r)
		if err != nil {
			return nil, err
		}
		stands = kept
	}
	if stands {
		return answers(r), nil
	}
	a.opts.Log.Info("an address is released, for the same attachment asks for another now", "key", req.Owner.String(), "pod", req.Owner.Pod())
	return nil, a.releaseKey(req.Owner.Key)
}

// stillKept touches the claims of a record that an IPAMClaim keeps: they don't
// name this sandbox alone, so the record is no proof that they are there still.
// An error says that nobody knows; the record stays.
func (a *Agent) stillKept(ctx context.Context, r *record) (bool, error) {
	for _, p := range r.Places {
		c, err := a.opts.Store.GetClaim(ctx, p.ref())
		if errors.Is(err, ipam.ErrNotFound) || err == nil && (c.Keep != r.Keep || c.State == ipam.Cooling) {
			return false, nil
		}
		if err == nil {
			_, err = a.update(ctx, c)
		}
		if errors.Is(err, errRefused) {
			err = fmt.Errorf("%s changed at this moment", r.Keep)
		}
		if err != nil {
			return false, unavailable(fmt.Errorf("claim %s: %w", p.ref(), err))
		}
	}
	return true, nil
}

func fits(r *record, req ipam.Request) bool {
	if len(r.Places) != len(req.Wants) {
		return false
	}
	for _, p := range r.Places {
		want := req.Wants[p.Want]
		inRange := slices.ContainsFunc(want.Ranges, func(rg ipam.Range) bool {
			return rg.Space.Name == p.Space && (rg.Usable.Contains(p.Addr) || want.Addr == p.Addr)
		})
		if !inRange || want.Addr.IsValid() && want.Addr != p.Addr {
			return false
		}
	}
	return true
}

func answers(r *record) []ipam.Address {
	out := make([]ipam.Address, len(r.Places))
	for _, p := range r.Places {
		out[p.Want] = *p.Answer
	}
	return out
}

// acquire finds an address for one want: in each range in turn, from what the
// node holds, then from a new block or a claim; where none has any, from
// blocks of others and from addresses that are still cooling.
func (a *Agent) acquire(ctx context.Context, t *task, want int, w ipam.Want) error {
	for {
		p, rg, err := a.find(ctx, t, w)
		if err != nil {
			return err
		}
		p.Want = want
		p.Answer = answer(p.Addr, rg)
		err = a.probe(ctx, t, &p)
		if err == nil {
			t.places = append(t.places, p)
			return nil
		}
		t.conflicts = append(t.conflicts, err)
		a.putAside(t, p, errors.Is(err, ipam.ErrConflict))
		if w.Addr.IsValid() || p.kept || len(t.conflicts) >= probeTries || !errors.Is(err, ipam.ErrConflict) {
			return errors.Join(t.conflicts...)
		}
	}
}

func answer(addr netip.Addr, rg ipam.Range) *ipam.Address {
	bits := addr.BitLen()
	if rg.Subnet.IsValid() && rg.Subnet.Contains(addr) {
		bits = rg.Subnet.Bits()
	}
	rg.Space = ipam.Space{Name: rg.Space.Name}
	return &ipam.Address{Prefix: netip.PrefixFrom(addr, bits), Range: rg}
}

// probe asks the wire whether somebody has the address.
func (a *Agent) probe(ctx context.Context, t *task, p *place) error {
	if t.req.Probe == nil || !t.req.ProbeAll && !p.suspect {
		return nil
	}
	err := t.req.Probe(ctx, p.Addr)
	if err == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if b := a.state.blockOf(p.Space, p.Addr); b != nil && b.suspect {
			if b.asked == nil {
				b.asked = map[netip.Addr]bool{}
			}
			b.asked[p.Addr] = true
		}
		return nil
	}
	if errors.Is(err, ipam.ErrConflict) {
		a.opts.Alarm(Alarm{Owner: t.req.Owner, Reason: "AddressInUse", Message: err.Error()})
	}
	return err
}

// putAside gives an address up that can't be used, and lets it rest if somebody
// answered for it.
func (a *Agent) putAside(t *task, p place, answered bool) {
	t.tried[p.ref()] = true
	if p.Claim != nil {
		t.aside = append(t.aside, p)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.reserved, p.ref())
	if b := a.state.blockOf(p.Space, p.Addr); b != nil && answered {
		if b.avoid == nil {
			b.avoid = map[netip.Addr]time.Duration{}
		}
		b.avoid[p.Addr] = a.now() + conflictRest
	}
}

// giveUp drops the intents of a request that failed; claims that were made for
// it are released.
func (a *Agent) giveUp(t *task) error {
	drops := a.drops(t, t.places)
	a.mu.Lock()
	_, intent := a.state.intents[t.key]
	granted := a.state.records[t.key] != nil
	a.mu.Unlock()
	if granted {
		return a.releaseKey(t.key) // the grant is in the log, but what came with it isn't
	}
	if !intent && len(drops) == 0 {
		return nil
	}
	a.wake()
	drops = append(drops, entry{Op: opDrop, Key: &t.key})
	a.mu.Lock()
	ticket, err := a.order(a.log.AppendReserved, drops...) // the disk may be what is full
	a.mu.Unlock()
	if err != nil {
		return err
	}
	return ticket.Wait()
}

// made is a record of the claims that were made for t, besides what it keeps.
func (a *Agent) made(t *task, places []place) *record {
	r := &record{Owner: t.req.Owner, Netns: t.req.Netns, Keep: t.req.Keep, Cooldown: t.req.Cooldown}
	for _, p := range slices.Concat(places, t.aside) {
		if p.Claim != nil && !p.joined {
			p.InBlock = false
			r.Places = append(r.Places, p)
		}
	}
	return r
}

// drops give up the claims of places and of what was put aside. What somebody
// answered for is kept for nobody, but what was kept before stays so.
func (a *Agent) drops(t *task, places []place) []entry {
	kept, free := a.made(t, places), a.made(t, nil)
	keep := func(p place) bool { return p.kept }
	kept.Places = slices.DeleteFunc(kept.Places, func(p place) bool {
		return !keep(p) && slices.ContainsFunc(t.aside, func(other place) bool { return other.ref() == p.ref() })
	})
	free.Places, free.Keep = slices.DeleteFunc(free.Places, keep), ipam.Keeper{}
	var entries []entry
	for _, r := range []*record{kept, free} {
		if len(r.Places) > 0 {
			entries = append(entries, entry{Op: opDrop, Key: &t.key, Record: r})
		}
	}
	return entries
}

// grant writes what was found as one record; then it is the owner's.
func (a *Agent) grant(t *task) ([]ipam.Address, error) {
	r := &record{
		Owner: t.req.Owner, Netns: t.req.Netns, Keep: t.req.Keep, Places: t.places,
		Since: time.Now().UTC().Truncate(time.Second), Cooldown: t.req.Cooldown,
	}
	entries := append([]entry{{Op: opGrant, Record: r}}, a.drops(t, nil)...)
	a.mu.Lock()
	err := a.stillOurs(t)
	var ticket Ticket
	if err == nil {
		ticket, err = a.order(a.log.Append, entries...)
	}
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := ticket.Wait(); err != nil {
		return nil, unavailable(fmt.Errorf("the IPAM's log can't be written: %w", err))
	}
	return answers(r), nil
}

// stillOurs holds the reservations against blocks that were given up
// meanwhile; under the agent's lock.
func (a *Agent) stillOurs(t *task) error {
	for _, p := range t.places {
		if !p.InBlock {
			continue
		}
		if b := a.state.blockOf(p.Space, p.Addr); b == nil || b.stage != stageReady {
			return errMoved
		}
	}
	return nil
}
