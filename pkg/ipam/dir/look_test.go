package dir_test

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/dir"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// TestLook: who looks sees what is there, and makes nothing.
func TestLook(t *testing.T) {
	empty := t.TempDir()
	if _, err := dir.Look(empty); !errors.Is(err, dir.ErrNoFolder) {
		t.Errorf("an empty folder: %v", err)
	}
	if left, err := os.ReadDir(empty); err != nil || len(left) > 0 {
		t.Errorf("it made %v (%v)", left, err)
	}
	path := t.TempDir()
	store, err := dir.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	var want []ipam.Space
	for _, name := range []string{"blue", "default"} {
		as, err := store.Space(t.Context(), ipam.Space{Name: name, Grid: iprange.DefaultGrid(), Mode: ipam.Auto, MaxBlocks: 3})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, as)
	}
	look, err := dir.Look(path)
	if err != nil {
		t.Fatal(err)
	}
	spaces, err := look.Spaces(t.Context())
	if diff := cmp.Diff(want, spaces); diff != "" || err != nil {
		t.Errorf("spaces (-want +got): %v\n%s", err, diff)
	}
	ref := ipam.BlockRef{Space: "blue", Prefix: netip.MustParsePrefix("10.0.0.0/26")}
	if _, err := look.Usage(t.Context(), ref); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("usage of no block: %v", err)
	}
	b, err := store.CreateBlock(t.Context(), ipam.Block{Ref: ref, Mode: ipam.Leased, Owner: ipam.Node{Name: "n", Boot: "b", Log: "l"}})
	if err != nil {
		t.Fatal(err)
	}
	told := ipam.Usage{
		Ref: ref, Bitmap: []byte{2}, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Version: b.Version,
		Owners: []ipam.AddressOwner{{Addr: netip.MustParseAddr("10.0.0.1"), Owner: ipam.Owner{PodName: "p"}}},
	}
	if told.Version, err = store.Mirror(t.Context(), told); err != nil {
		t.Fatal(err)
	}
	got, err := look.Usage(t.Context(), ref)
	if diff := cmp.Diff(told, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" || err != nil {
		t.Errorf("usage (-want +got): %v\n%s", err, diff)
	}
}
