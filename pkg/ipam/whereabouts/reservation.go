package whereabouts

import (
	"context"
	"errors"
	"fmt"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// ReservationAPI keeps Whereabouts' reservations. It reports as ipam.Store
// does: ErrExists, ErrNotFound, ErrStale, and with any other error of a write
// nobody knows. Client is one.
type ReservationAPI interface {
	Get(ctx context.Context, name string) (Reservation, error)
	Create(ctx context.Context, r Reservation) (Reservation, error)
	// Update and Delete are refused unless UID and resourceVersion are the same.
	Update(ctx context.Context, r Reservation) (Reservation, error)
	Delete(ctx context.Context, name string, v ipam.Version) error
	// List gives all; it may be old.
	List(ctx context.Context) ([]Reservation, error)
}

// tries bounds the rounds in which a reservation changes under our hands.
const tries = 16

// errTaken says that Whereabouts has the address.
var errTaken = errors.New("reserved by Whereabouts")

// admit says whether a reservation that isn't marked may become ours.
type admit func(r Reservation) bool

// nobodys admits no reservation of Whereabouts.
func nobodys(Reservation) bool { return false }

// importedFrom admits the one that an imported claim came of.
func importedFrom(c ipam.Claim) admit {
	if c.Node.Log != "" {
		return nobodys
	}
	return func(r Reservation) bool { return r.ofPod(c.Owner) }
}

// hold makes the reservation of the name ours with this owner and a new
// resourceVersion, so that no deletion that was sent before can hit it. It is
// errTaken if Whereabouts has it.
func (b *beside) hold(ctx context.Context, name string, owner ipam.Owner, ok admit) (Reservation, error) {
	for range tries {
		found, err := b.api.Get(ctx, name)
		var held Reservation
		switch {
		case errors.Is(err, ipam.ErrNotFound):
			held, err = b.api.Create(ctx, newReservation(name, owner))
		case err != nil:
		case !found.Marked() && !ok(found):
			return Reservation{}, takenBy(found)
		default:
			held, err = b.api.Update(ctx, found.claimedBy(owner))
		}
		if err == nil {
			return held, nil
		}
		if !moved(err) {
			return Reservation{}, fmt.Errorf("hold reservation %s: %w", name, err)
		}
	}
	return Reservation{}, fmt.Errorf("reservation %s changed %d times while it was to be held: try again", name, tries)
}

// moved says that the reservation certainly isn't as it was read.
func moved(err error) bool {
	return errors.Is(err, ipam.ErrExists) || errors.Is(err, ipam.ErrNotFound) || errors.Is(err, ipam.ErrStale)
}

func takenBy(r Reservation) error {
	return fmt.Errorf("address of reservation %s: %w for pod %s", r.Name, errTaken, orNone(r.Spec.PodRef))
}

func newReservation(name string, owner ipam.Owner) Reservation {
	var r Reservation
	r.Name = name
	return r.claimedBy(owner)
}

// settle sets right a reservation that we hold for a claim that came to
// nothing: it gets the owner of the claim that is there, or goes. Only the very
// version that we wrote is touched.
func (b *beside) settle(ctx context.Context, ref ipam.ClaimRef, held Reservation) error {
	claim, err := b.Store.GetClaim(ctx, ref)
	switch {
	case errors.Is(err, ipam.ErrNotFound):
		err = b.api.Delete(ctx, held.Name, held.version())
	case err == nil && !held.isOf(claim.Owner):
		_, err = b.api.Update(ctx, held.claimedBy(claim.Owner))
	}
	if err != nil && !moved(err) {
		return fmt.Errorf("the reservation %s names the wrong owner until it is mended: %w", held.Name, err)
	}
	return nil
}
