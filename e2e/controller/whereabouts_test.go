//go:build e2e

package controller

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/meta-cni/meta-cni/e2e/apiserver"
	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/whereabouts"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// TestBesideWhereabouts: reservations come and go with claims, and every touch
// gives them a new version.
func TestBesideWhereabouts(t *testing.T) {
	start(t, "one")
	n := makeNode(t, "beside")
	config := server.As(apiserver.Daemon)
	api, err := whereabouts.NewClient(config, httpClient(t, config), "kube-system")
	if err != nil {
		t.Fatal(err)
	}
	store := whereabouts.WithReservations(agents(t), api)
	if _, err := store.Space(t.Context(), ipam.Space{Name: "red", Grid: iprange.DefaultGrid(), Whereabouts: true}); err != nil {
		t.Fatal(err)
	}
	ref := ipam.ClaimRef{Space: "red", Addr: netip.MustParseAddr("fd00:41::")}
	const name = "red-fd00-41--0"
	c := ipam.Claim{
		Ref: ref, State: ipam.Bound, Node: n,
		Owner: ipam.Owner{Key: ipam.Key{ContainerID: "c", IfName: "net1", Network: "x"}, PodNamespace: "default", PodName: "p"},
	}
	made, err := store.CreateClaim(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	first, err := api.Get(t.Context(), name)
	if err != nil || first.Spec.PodRef != "default/p" || !first.Marked() {
		t.Fatalf("%+v, %v", first, err)
	}
	if made, err = store.UpdateClaim(t.Context(), made); err != nil {
		t.Fatal(err)
	}
	second, err := api.Get(t.Context(), name)
	if err != nil || second.UID != first.UID || second.ResourceVersion == first.ResourceVersion {
		t.Fatalf("a touch changed nothing: %+v, %v", second, err)
	}
	if err := api.Delete(t.Context(), name, ipam.Version{UID: string(first.UID), Resource: first.ResourceVersion}); !errors.Is(err, ipam.ErrStale) {
		t.Fatalf("a deletion sent before the touch: %v", err)
	}
	// Whereabouts deletes it, and the controller makes it again.
	if err := api.Delete(t.Context(), name, ipam.Version{UID: string(second.UID), Resource: second.ResourceVersion}); err != nil {
		t.Fatal(err)
	}
	wait(t, func() error {
		r, err := api.Get(t.Context(), name)
		if err == nil && r.UID == second.UID {
			err = fmt.Errorf("%+v", r)
		}
		return err
	})
	if err := store.DeleteClaim(t.Context(), ref, made.Version); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Get(t.Context(), name); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("the reservation is left: %v", err)
	}
	// Whereabouts' own is respected.
	var foreign whereabouts.Reservation
	foreign.Name, foreign.Spec = name, whereabouts.ReservationSpec{PodRef: "default/other", IfName: "net1"}
	if _, err := api.Create(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	if _, err := store.CreateClaim(t.Context(), c); !errors.Is(err, ipam.ErrExists) {
		t.Errorf("claimed what Whereabouts has: %v", err)
	}
}
