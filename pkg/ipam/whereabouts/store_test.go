package whereabouts

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// pair is a world with its store beside Whereabouts and what lies beneath.
type pair struct {
	*world
	store ipam.Store
	below fakeStore
	api   fakeAPI
}

func newPair() pair {
	w := newWorld()
	p := pair{world: w, below: fakeStore{world: w}, api: fakeAPI{w}}
	p.spaces[ipam.DefaultSpace] = ipam.Space{Name: ipam.DefaultSpace, Whereabouts: true}
	p.store = WithReservations(p.below, p.api)
	return p
}

// whereabouts puts a reservation of Whereabouts' own there.
func (p pair) whereabouts(t *testing.T, address, pod string) Reservation {
	t.Helper()
	var r Reservation
	r.Name, r.Spec = address, ReservationSpec{PodRef: "default/" + pod, IfName: "net1"}
	made, err := p.api.Create(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// reserved is whom the reservation names: its container, or "whereabouts".
func (p pair) reserved(address string) string {
	r, ok := p.reservations[address]
	switch {
	case !ok:
		return "nobody"
	case !r.Marked():
		return "whereabouts"
	}
	return r.Spec.ContainerID
}

const address = "10.0.0.5"

func TestCreateClaim(t *testing.T) {
	imported := claim(address, "a", 1)
	imported.Node = ipam.Node{Name: "n"}
	for _, test := range []struct {
		name     string
		prepare  func(t *testing.T, p pair)
		claim    ipam.Claim
		err      error
		reserved string
		touched  bool
	}{
		{"free", func(*testing.T, pair) {}, claim(address, "a", 1), nil, "a-1", true},
		{
			"of a pod of Whereabouts", func(t *testing.T, p pair) { p.whereabouts(t, address, "w") },
			claim(address, "a", 1), ipam.ErrExists, "whereabouts", false,
		},
		{
			"of Whereabouts, by the same pod", func(t *testing.T, p pair) { p.whereabouts(t, address, "a") },
			claim(address, "a", 1), ipam.ErrExists, "whereabouts", false,
		},
		{
			"of Whereabouts, and imported", func(t *testing.T, p pair) { p.whereabouts(t, address, "a") },
			imported, nil, "a-1", true,
		},
		{
			"imported, but another has it", func(t *testing.T, p pair) { p.whereabouts(t, address, "w") },
			imported, ipam.ErrExists, "whereabouts", false,
		},
		{"left over by itself", leftOver("a", 1), claim(address, "a", 1), nil, "a-1", true},
		{"left over by another", leftOver("b", 1), claim(address, "a", 1), nil, "a-1", true},
		{
			"claimed by another", func(t *testing.T, p pair) { mustCreate(t, p, claim(address, "b", 1)) },
			claim(address, "a", 1), ipam.ErrExists, "b-1", false,
		},
		{
			"claimed by another, its reservation lost", func(t *testing.T, p pair) {
				mustCreate(t, p, claim(address, "b", 1))
				delete(p.reservations, address)
			},
			claim(address, "a", 1), ipam.ErrExists, "b-1", true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPair()
			test.prepare(t, p)
			before := p.reservations[address].version()
			_, err := p.store.CreateClaim(t.Context(), test.claim)
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("error %v, want %v", err, test.err)
			}
			if diff := cmp.Diff(test.reserved, p.reserved(address)); diff != "" {
				t.Errorf("reservation (-want +got):\n%s", diff)
			}
			if touched := p.reservations[address].version() != before; touched != test.touched {
				t.Errorf("reservation written: %v", touched)
			}
			if _, ok := p.claims[ref(address)]; !ok && test.err == nil {
				t.Error("there is no claim")
			}
		})
	}
}

func leftOver(pod string, generation int) func(t *testing.T, p pair) {
	return func(t *testing.T, p pair) {
		if _, err := p.api.Create(t.Context(), newReservation(address, claim(address, pod, generation).Owner)); err != nil {
			t.Fatal(err)
		}
	}
}

func mustCreate(t *testing.T, p pair, c ipam.Claim) ipam.Claim {
	t.Helper()
	made, err := p.store.CreateClaim(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// before runs act once, just before the call of that name.
func (p pair) before(what string, act func()) {
	p.gate = func(_ context.Context, name string, do func() error) error {
		if name == what {
			p.gate = func(_ context.Context, _ string, do func() error) error { return do() }
			act()
		}
		return do()
	}
}

func TestCreateClaimLosesAtTheLastMoment(t *testing.T) {
	t.Run("to one of us", func(t *testing.T) {
		p := newPair()
		p.before("create claim", func() {
			if _, err := p.below.CreateClaim(t.Context(), claim(address, "b", 1)); err != nil {
				t.Fatal(err)
			}
		})
		if _, err := p.store.CreateClaim(t.Context(), claim(address, "a", 1)); !errors.Is(err, ipam.ErrExists) {
			t.Error(err)
		}
		if got := p.reserved(address); got != "b-1" {
			t.Errorf("the reservation names %s", got)
		}
	})
	t.Run("to Whereabouts", func(t *testing.T) {
		p := newPair()
		p.before("create claim", func() {
			delete(p.reservations, address)
			p.whereabouts(t, address, "w")
		})
		if _, err := p.store.CreateClaim(t.Context(), claim(address, "a", 1)); !errors.Is(err, ipam.ErrExists) {
			t.Error(err)
		}
		if len(p.claims) != 0 || p.reserved(address) != "whereabouts" {
			t.Errorf("claims %v, reservation of %s", p.claims, p.reserved(address))
		}
	})
	t.Run("its reservation only", func(t *testing.T) {
		p := newPair()
		p.before("create claim", func() { delete(p.reservations, address) })
		mustCreate(t, p, claim(address, "a", 1))
		if got := p.reserved(address); got != "a-1" {
			t.Errorf("the reservation names %s", got)
		}
	})
}

func TestUpdateClaim(t *testing.T) {
	for _, test := range []struct {
		name     string
		state    ipam.ClaimState
		between  func(t *testing.T, p pair)
		err      error
		reserved string
		touched  bool
	}{
		{"taken over", ipam.Bound, func(*testing.T, pair) {}, nil, "b-1", true},
		{"cools down", ipam.Cooling, func(*testing.T, pair) {}, nil, "a-1", false},
		{"its reservation lost", ipam.Bound, func(_ *testing.T, p pair) { delete(p.reservations, address) }, nil, "b-1", true},
		{"now of Whereabouts", ipam.Bound, func(t *testing.T, p pair) {
			delete(p.reservations, address)
			p.whereabouts(t, address, "w")
		}, ipam.ErrTaken, "whereabouts", true},
		{"changed meanwhile", ipam.Bound, func(t *testing.T, p pair) {
			if _, err := p.below.UpdateClaim(t.Context(), p.claims[ref(address)]); err != nil {
				t.Fatal(err)
			}
		}, ipam.ErrStale, "a-1", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPair()
			made := mustCreate(t, p, claim(address, "a", 1))
			before := p.reservations[address].version()
			test.between(t, p)
			next := made
			if next.State = test.state; next.State == ipam.Bound {
				next.Owner = claim(address, "b", 1).Owner
			}
			if _, err := p.store.UpdateClaim(t.Context(), next); !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("error %v, want %v", err, test.err)
			}
			if got := p.reserved(address); got != test.reserved {
				t.Errorf("the reservation names %s, want %s", got, test.reserved)
			}
			if touched := p.reservations[address].version() != before; touched != test.touched {
				t.Errorf("reservation written: %v", touched)
			}
		})
	}
	t.Run("a touch gives a new version", func(t *testing.T) {
		p := newPair()
		made := mustCreate(t, p, claim(address, "a", 1))
		before := p.reservations[address].version()
		if _, err := p.store.UpdateClaim(t.Context(), made); err != nil {
			t.Fatal(err)
		}
		if p.reservations[address].version() == before {
			t.Error("a deletion that was sent before would still hit")
		}
	})
	t.Run("loses at the last moment", func(t *testing.T) {
		p := newPair()
		made := mustCreate(t, p, claim(address, "a", 1))
		p.before("update claim", func() { delete(p.claims, ref(address)) })
		made.Owner = claim(address, "b", 1).Owner
		if _, err := p.store.UpdateClaim(t.Context(), made); !errors.Is(err, ipam.ErrNotFound) {
			t.Error(err)
		}
		if got := p.reserved(address); got != "nobody" {
			t.Errorf("the reservation names %s", got)
		}
	})
}

func TestDeleteClaim(t *testing.T) {
	for _, test := range []struct {
		name     string
		between  func(t *testing.T, p pair)
		reserved string
	}{
		{"its own", func(*testing.T, pair) {}, "nobody"},
		{"gone", func(_ *testing.T, p pair) { delete(p.reservations, address) }, "nobody"},
		{"of Whereabouts", func(t *testing.T, p pair) {
			delete(p.reservations, address)
			p.whereabouts(t, address, "a")
		}, "whereabouts"},
		{"passed to another", func(_ *testing.T, p pair) {
			p.reservations[address] = p.reservations[address].claimedBy(claim(address, "b", 1).Owner)
		}, "b-1"},
		{"passed to another at the last moment", func(t *testing.T, p pair) {
			p.before("delete reservation", func() {
				if _, err := p.api.Update(t.Context(), p.reservations[address].claimedBy(claim(address, "a", 1).Owner)); err != nil {
					t.Fatal(err)
				}
			})
		}, "a-1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPair()
			made := mustCreate(t, p, claim(address, "a", 1))
			test.between(t, p)
			if err := p.store.DeleteClaim(t.Context(), made.Ref, made.Version); err != nil {
				t.Fatal(err)
			}
			if got := p.reserved(address); got != test.reserved || len(p.claims) > 0 {
				t.Errorf("reservation of %s, want %s; claims %v", got, test.reserved, p.claims)
			}
		})
	}
	t.Run("another version", func(t *testing.T) {
		p := newPair()
		made := mustCreate(t, p, claim(address, "a", 1))
		if err := p.store.DeleteClaim(t.Context(), made.Ref, ipam.Version{UID: made.Version.UID, Resource: "0"}); !errors.Is(err, ipam.ErrStale) {
			t.Error(err)
		}
		if got := p.reserved(address); got != "a-1" {
			t.Errorf("the reservation names %s", got)
		}
	})
}

func TestASpaceBesideWhereaboutsIsNotLeased(t *testing.T) {
	p := newPair()
	block := ipam.Block{Ref: ipam.BlockRef{Space: ipam.DefaultSpace, Prefix: netip.MustParsePrefix("10.0.0.0/26")}, Mode: ipam.Leased}
	if _, err := p.store.CreateBlock(t.Context(), block); !errors.Is(err, ipam.ErrInvalid) {
		t.Error(err)
	}
	block.Mode = ipam.Shared
	if _, err := p.store.CreateBlock(t.Context(), block); err != nil {
		t.Error(err)
	}
	as, err := p.store.Space(t.Context(), ipam.Space{Name: "red", Mode: ipam.Blocks, Whereabouts: true})
	if err != nil || as.Mode != ipam.Claims {
		t.Errorf("%+v, %v", as, err)
	}
}

func TestOtherSpacesHaveNoReservations(t *testing.T) {
	p := newPair()
	p.spaces[ipam.DefaultSpace] = ipam.Space{Name: ipam.DefaultSpace}
	made := mustCreate(t, p, claim(address, "a", 1))
	if made, err := p.store.UpdateClaim(t.Context(), made); err != nil || len(p.reservations) > 0 {
		t.Errorf("%+v, %v: %v", made, err, p.reservations)
	} else if err := p.store.DeleteClaim(t.Context(), made.Ref, made.Version); err != nil {
		t.Error(err)
	}
}

func TestTaken(t *testing.T) {
	p := newPair()
	p.whereabouts(t, "10.0.0.1", "w")
	p.whereabouts(t, "10.1.0.1", "w")
	p.whereabouts(t, "red-10.0.0.2", "w")
	leftOver("b", 1)(t, p)
	mustCreate(t, p, claim("10.0.0.9", "a", 1))
	got, err := p.store.Taken(t.Context(), ipam.DefaultSpace, iprange.SetOf(iprange.OfPrefix(netip.MustParsePrefix("10.0.0.0/24"))))
	want := map[netip.Addr]bool{netip.MustParseAddr("10.0.0.1"): true, netip.MustParseAddr("10.0.0.9"): true}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestMend(t *testing.T) {
	for _, test := range []struct {
		name     string
		prepare  func(t *testing.T, p pair)
		after    time.Duration
		reserved string
		kind     FindingKind
	}{
		{"in order", func(*testing.T, pair) {}, LeftOver, "a-1", ""},
		{"lost", func(_ *testing.T, p pair) { delete(p.reservations, address) }, 0, "a-1", ""},
		{"lost, and nobody uses the claim", func(_ *testing.T, p pair) {
			delete(p.reservations, address)
			c := p.claims[ref(address)]
			c.State = ipam.Cooling
			p.claims[ref(address)] = c
		}, 0, "nobody", ""},
		{"of another of us", func(_ *testing.T, p pair) {
			p.reservations[address] = p.reservations[address].claimedBy(claim(address, "b", 1).Owner)
		}, 0, "a-1", ""},
		{"of Whereabouts", func(t *testing.T, p pair) {
			delete(p.reservations, address)
			p.whereabouts(t, address, "w")
		}, 0, "whereabouts", FindingDuplicate},
		{"left over, young", func(_ *testing.T, p pair) { delete(p.claims, ref(address)) }, LeftOver - 1, "a-1", ""},
		{"left over, old", func(_ *testing.T, p pair) { delete(p.claims, ref(address)) }, LeftOver, "nobody", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPair()
			mustCreate(t, p, claim(address, "a", 1))
			test.prepare(t, p)
			m := Mender{Store: p.below, API: p.api}
			start := time.Unix(0, 0)
			var findings []Finding
			for _, now := range []time.Duration{0, test.after} {
				var err error
				if findings, err = m.Mend(t.Context(), ipam.DefaultSpace, start.Add(now)); err != nil {
					t.Fatal(err)
				}
			}
			if got := p.reserved(address); got != test.reserved {
				t.Errorf("the reservation names %s, want %s", got, test.reserved)
			}
			if (len(findings) > 0) != (test.kind != "") || len(findings) > 0 && findings[0].Kind != test.kind {
				t.Errorf("findings %v", findings)
			}
		})
	}
}
