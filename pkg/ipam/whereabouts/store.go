package whereabouts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// beside is a Store that holds a reservation for each claim of a space beside
// Whereabouts.
type beside struct {
	ipam.Store
	api ReservationAPI

	mu     sync.Mutex
	spaces map[string]bool
}

// WithReservations is store, with a reservation of Whereabouts for each claim
// of spaces with Whereabouts: true. What a claim costs more: at its making one
// write and one read, at each update to Bound two reads and a write, at its
// deletion two reads and a write. In such a space no block is leased.
//
// An update to Bound may fail with ipam.ErrTaken: Whereabouts has the address,
// and the claim must not be used. Whether a space is one of these is read once.
func WithReservations(store ipam.Store, api ReservationAPI) ipam.Store {
	return &beside{Store: store, api: api, spaces: map[string]bool{}}
}

func (b *beside) Space(ctx context.Context, as ipam.Space) (ipam.Space, error) {
	if as.Whereabouts {
		as.Mode = ipam.Claims
	}
	have, err := b.Store.Space(ctx, as)
	if err != nil {
		return have, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spaces[have.Name] = have.Whereabouts
	if have.Whereabouts {
		have.Mode = ipam.Claims
	}
	return have, nil
}

// serves says whether the space is beside Whereabouts. A space whose claim or
// block is asked for exists.
func (b *beside) serves(ctx context.Context, space string) (bool, error) {
	b.mu.Lock()
	serves, known := b.spaces[space]
	b.mu.Unlock()
	if known {
		return serves, nil
	}
	have, err := b.Space(ctx, ipam.Space{Name: space, Grid: iprange.DefaultGrid(), Mode: ipam.Claims})
	if err != nil {
		return false, fmt.Errorf("read address space %s: %w", space, err)
	}
	return have.Whereabouts, nil
}

// reservation is the name of the claim's reservation; false if its space has
// none.
func (b *beside) reservation(ctx context.Context, ref ipam.ClaimRef) (string, bool, error) {
	serves, err := b.serves(ctx, ref.Space)
	if err != nil || !serves {
		return "", false, err
	}
	network, err := networkOf(ref.Space)
	if err != nil {
		return "", false, err
	}
	return ReservationName(network, ref.Addr), true, nil
}

func (b *beside) CreateBlock(ctx context.Context, block ipam.Block) (ipam.Block, error) {
	serves, err := b.serves(ctx, block.Ref.Space)
	if err != nil {
		return ipam.Block{}, err
	}
	if serves && block.Mode != ipam.Shared {
		return ipam.Block{}, fmt.Errorf("%w: block %s can't be leased: Whereabouts allocates in its space too", ipam.ErrInvalid, block.Ref)
	}
	return b.Store.CreateBlock(ctx, block)
}

// CreateClaim holds the reservation, makes the claim, and looks whether the
// reservation is still as it was written; else it is held again.
func (b *beside) CreateClaim(ctx context.Context, c ipam.Claim) (ipam.Claim, error) {
	name, serves, err := b.reservation(ctx, c.Ref)
	if err != nil {
		return ipam.Claim{}, err
	}
	if !serves {
		return b.Store.CreateClaim(ctx, c)
	}
	held, err := b.reserve(ctx, name, c)
	if err != nil {
		return ipam.Claim{}, exists(err)
	}
	failpoint.Hit("reservation-held")
	made, err := b.Store.CreateClaim(ctx, c)
	failpoint.Hit("reservation-claimed")
	if errors.Is(err, ipam.ErrExists) {
		return ipam.Claim{}, errors.Join(err, b.settle(ctx, c.Ref, held))
	}
	if err != nil {
		return ipam.Claim{}, err
	}
	return b.confirm(ctx, made, held)
}

// reserve is hold for a new claim: it begins with the write that nearly always
// suffices, and doesn't touch what protects another's claim.
func (b *beside) reserve(ctx context.Context, name string, c ipam.Claim) (Reservation, error) {
	held, err := b.api.Create(ctx, newReservation(name, c.Owner))
	if !errors.Is(err, ipam.ErrExists) {
		return held, wrap(err, "make reservation %s", name)
	}
	for range tries {
		found, err := b.api.Get(ctx, name)
		switch {
		case errors.Is(err, ipam.ErrNotFound):
		case err != nil:
			return Reservation{}, fmt.Errorf("read reservation %s: %w", name, err)
		case !found.Marked() && !importedFrom(c)(found):
			return Reservation{}, takenBy(found)
		default:
			if err := b.unclaimed(ctx, c.Ref); err != nil {
				return Reservation{}, err
			}
		}
		if held, err = b.write(ctx, found, name, c.Owner); err == nil || !moved(err) {
			return held, wrap(err, "hold reservation %s", name)
		}
	}
	return Reservation{}, fmt.Errorf("reservation %s changed %d times while it was to be held: try again", name, tries)
}

// write updates the reservation that was found, or makes one.
func (b *beside) write(ctx context.Context, found Reservation, name string, owner ipam.Owner) (Reservation, error) {
	if found.Name == "" {
		return b.api.Create(ctx, newReservation(name, owner))
	}
	return b.api.Update(ctx, found.claimedBy(owner))
}

// unclaimed is ErrExists if there is a claim.
func (b *beside) unclaimed(ctx context.Context, ref ipam.ClaimRef) error {
	_, err := b.Store.GetClaim(ctx, ref)
	switch {
	case err == nil:
		return fmt.Errorf("claim %s: %w", ref, ipam.ErrExists)
	case errors.Is(err, ipam.ErrNotFound):
		return nil
	}
	return fmt.Errorf("read claim %s: %w", ref, err)
}

// confirm makes sure of the reservation once the claim is there: from then on
// nobody of us takes it away. If Whereabouts got the address in between, the
// claim goes again.
func (b *beside) confirm(ctx context.Context, made ipam.Claim, held Reservation) (ipam.Claim, error) {
	now, err := b.api.Get(ctx, held.Name)
	if err == nil && now.version() == held.version() {
		return made, nil
	}
	if err != nil && !errors.Is(err, ipam.ErrNotFound) {
		return ipam.Claim{}, fmt.Errorf("read reservation %s: %w", held.Name, err)
	}
	if _, err = b.hold(ctx, held.Name, made.Owner, nobodys); err == nil {
		return made, nil
	}
	if !errors.Is(err, errTaken) {
		return ipam.Claim{}, err
	}
	if deleteErr := b.Store.DeleteClaim(ctx, made.Ref, made.Version); deleteErr != nil {
		return ipam.Claim{}, fmt.Errorf("%w; delete claim %s again: %w", err, made.Ref, deleteErr)
	}
	return ipam.Claim{}, exists(err)
}

// exists is err as CreateClaim tells it.
func exists(err error) error {
	if errors.Is(err, errTaken) {
		return fmt.Errorf("%w: %w", ipam.ErrExists, err)
	}
	return err
}

// UpdateClaim holds the reservation for a claim that is to be used; for one that
// isn't used any more it stays as it is until the claim is deleted.
func (b *beside) UpdateClaim(ctx context.Context, c ipam.Claim) (ipam.Claim, error) {
	name, serves, err := b.reservation(ctx, c.Ref)
	if err != nil {
		return ipam.Claim{}, err
	}
	if !serves || c.State != ipam.Bound {
		return b.Store.UpdateClaim(ctx, c)
	}
	stored, err := b.at(ctx, c.Ref, c.Version)
	if err != nil {
		return ipam.Claim{}, err
	}
	held, err := b.hold(ctx, name, c.Owner, importedFrom(stored))
	if errors.Is(err, errTaken) {
		return ipam.Claim{}, fmt.Errorf("claim %s: %w: %w", c.Ref, ipam.ErrTaken, err)
	}
	if err != nil {
		return ipam.Claim{}, err
	}
	failpoint.Hit("reservation-passed")
	updated, err := b.Store.UpdateClaim(ctx, c)
	if errors.Is(err, ipam.ErrStale) || errors.Is(err, ipam.ErrNotFound) {
		return ipam.Claim{}, errors.Join(err, b.settle(ctx, c.Ref, held))
	}
	return updated, err
}

// at is the claim if it has that version.
func (b *beside) at(ctx context.Context, ref ipam.ClaimRef, v ipam.Version) (ipam.Claim, error) {
	stored, err := b.Store.GetClaim(ctx, ref)
	if err == nil && stored.Version != v {
		return ipam.Claim{}, fmt.Errorf("claim %s: %w", ref, ipam.ErrStale)
	}
	return stored, err
}

// DeleteClaim deletes the claim, then its reservation as it was before that.
func (b *beside) DeleteClaim(ctx context.Context, ref ipam.ClaimRef, v ipam.Version) error {
	name, serves, err := b.reservation(ctx, ref)
	if err != nil {
		return err
	}
	if !serves {
		return b.Store.DeleteClaim(ctx, ref, v)
	}
	stored, err := b.at(ctx, ref, v)
	if err != nil {
		return err
	}
	found, getErr := b.api.Get(ctx, name)
	if getErr != nil && !errors.Is(getErr, ipam.ErrNotFound) {
		return fmt.Errorf("read reservation %s: %w", name, getErr)
	}
	if err := b.Store.DeleteClaim(ctx, ref, v); err != nil {
		return err
	}
	failpoint.Hit("reservation-unclaimed")
	own := found.isOf(stored.Owner) || !found.Marked() && importedFrom(stored)(found)
	if !own { // also when there is none
		return nil
	}
	if err := b.api.Delete(ctx, name, found.version()); err != nil && !moved(err) {
		return fmt.Errorf("claim %s is deleted, its reservation %s isn't: %w", ref, name, err)
	}
	return nil
}

// Taken has the addresses that Whereabouts reserved besides.
func (b *beside) Taken(ctx context.Context, space string, within iprange.Set) (map[netip.Addr]bool, error) {
	taken, err := b.Store.Taken(ctx, space, within)
	if err != nil {
		return nil, err
	}
	serves, err := b.serves(ctx, space)
	if err != nil || !serves {
		return taken, err
	}
	network, err := networkOf(space)
	if err != nil {
		return nil, err
	}
	list, err := b.api.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list Whereabouts' reservations: %w", err)
	}
	all := make(map[netip.Addr]bool, len(taken))
	for addr := range taken {
		all[addr] = true
	}
	for _, r := range list {
		if addr, ok := parseReservation(network, r.Name); ok && !r.Marked() && within.Contains(addr) {
			all[addr] = true
		}
	}
	return all, nil
}
