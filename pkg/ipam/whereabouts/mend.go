package whereabouts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// LeftOver is how long a marked reservation without a claim is left alone: no
// request of the one who made it is under way any more then, and if one was
// applied late, its claim is touched before it is used.
const LeftOver = 2 * time.Minute

// Mender makes claims and reservations agree again, after a crash or a deletion
// by Whereabouts. It remembers what it saw; one process runs it, and a second
// one does no harm.
type Mender struct {
	// Store is the one beneath WithReservations.
	Store ipam.Store
	API   ReservationAPI
	seen  map[string]sighting
}

type sighting struct {
	version ipam.Version
	since   time.Time
}

// Mend looks once at a space beside Whereabouts. now is monotonic. A claim in
// use gets back a reservation that is gone or names another owner; one that is
// left over for LeftOver is deleted; one that Whereabouts has is reported.
func (m *Mender) Mend(ctx context.Context, space string, now time.Time) ([]Finding, error) {
	network, err := networkOf(space)
	if err != nil {
		return nil, err
	}
	claims, err := m.Store.SpaceClaims(ctx, space, everything())
	if err != nil {
		return nil, fmt.Errorf("read the claims of space %s: %w", space, err)
	}
	list, err := m.API.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list Whereabouts' reservations: %w", err)
	}
	listed := map[netip.Addr]Reservation{}
	for _, r := range list {
		if addr, ok := parseReservation(network, r.Name); ok {
			listed[addr] = r
		}
	}
	var findings []Finding
	for _, c := range claims {
		r := listed[c.Ref.Addr]
		delete(listed, c.Ref.Addr)
		if c.State == ipam.Cooling || r.isOf(c.Owner) {
			continue
		}
		found, mendErr := m.mend(ctx, network, c.Ref)
		findings, err = append(findings, found...), errors.Join(err, mendErr)
	}
	return findings, errors.Join(err, m.sweep(ctx, space, listed, now))
}

func everything() iprange.Set {
	return iprange.SetOf(
		iprange.OfPrefix(netip.PrefixFrom(netip.IPv4Unspecified(), 0)),
		iprange.OfPrefix(netip.PrefixFrom(netip.IPv6Unspecified(), 0)))
}

// mend reads both objects again and sets the reservation right.
func (m *Mender) mend(ctx context.Context, network string, ref ipam.ClaimRef) ([]Finding, error) {
	name := ReservationName(network, ref.Addr)
	c, err := m.Store.GetClaim(ctx, ref)
	if errors.Is(err, ipam.ErrNotFound) || err == nil && c.State == ipam.Cooling {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read claim %s: %w", ref, err)
	}
	r, err := m.API.Get(ctx, name)
	switch {
	case errors.Is(err, ipam.ErrNotFound):
		_, err = m.API.Create(ctx, newReservation(name, c.Owner))
	case err != nil || r.isOf(c.Owner) || !r.Marked() && importedFrom(c)(r):
	case r.Marked():
		_, err = m.API.Update(ctx, r.claimedBy(c.Owner))
	default:
		return []Finding{{FindingDuplicate, fmt.Sprintf("%s has claim %s, and Whereabouts gave the address to %s; if both run, restart one of them", c.Owner.Pod(), ref, orNone(r.Spec.PodRef))}}, nil
	}
	if err != nil && !moved(err) {
		return nil, fmt.Errorf("mend reservation %s: %w", name, err)
	}
	return nil, nil
}

// sweep deletes marked reservations without a claim that didn't change for
// LeftOver.
func (m *Mender) sweep(ctx context.Context, space string, alone map[netip.Addr]Reservation, now time.Time) error {
	before := m.seen
	m.seen = map[string]sighting{}
	for key, s := range before {
		if ref, err := ipam.ParseClaimRef(key); err == nil && ref.Space != space {
			m.seen[key] = s
		}
	}
	var errs error
	for addr, r := range alone {
		if !r.Marked() {
			continue
		}
		ref := ipam.ClaimRef{Space: space, Addr: addr}
		s, ok := before[ref.String()]
		if !ok || s.version != r.version() {
			s = sighting{r.version(), now}
		}
		m.seen[ref.String()] = s
		if now.Sub(s.since) >= LeftOver {
			errs = errors.Join(errs, m.remove(ctx, ref, r))
		}
	}
	return errs
}

func (m *Mender) remove(ctx context.Context, ref ipam.ClaimRef, r Reservation) error {
	_, err := m.Store.GetClaim(ctx, ref)
	if err == nil {
		return nil
	}
	if errors.Is(err, ipam.ErrNotFound) {
		err = m.API.Delete(ctx, r.Name, r.version())
	}
	if err != nil && !moved(err) {
		return fmt.Errorf("delete the left reservation %s: %w", r.Name, err)
	}
	return nil
}
