package ipamtest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

func aSpace(name string) ipam.Space {
	return ipam.Space{
		Name: name, Grid: iprange.Grid{V4: 28, V6: 120}, Mode: ipam.Claims,
		Cooldown: 90 * time.Second, MaxBlocks: 7, Whereabouts: true,
	}
}

// bySettings compares spaces but for their versions.
func bySettings() cmp.Option { return cmpopts.IgnoreFields(ipam.Space{}, "Version") }

func spaceIsMade(t *testing.T, w pair) {
	for _, name := range []string{"a", ipam.DefaultSpace, strings.Repeat("x", 63), "a--192-168-0-0-24"} {
		got, err := w.a.Space(t.Context(), aSpace(name))
		must(t, err)
		same(t, name, aSpace(name), got, bySettings())
		if got.Version.UID == "" {
			t.Errorf("%s: version %+v", name, got.Version)
		}
	}
	// What isn't said may be said by the store.
	got, err := w.a.Space(t.Context(), ipam.Space{Name: "plain", Grid: iprange.DefaultGrid()})
	must(t, err)
	want := ipam.Space{Name: "plain", Grid: iprange.DefaultGrid(), Mode: ipam.Auto, Cooldown: ipam.DefaultCooldown, Version: got.Version}
	if got.Mode == "" {
		got.Mode = ipam.Auto
	}
	if got.Cooldown == 0 {
		got.Cooldown = ipam.DefaultCooldown
	}
	same(t, "plain", want, got)
}

func spaceKeeps(t *testing.T, w pair) {
	first, err := w.a.Space(t.Context(), aSpace("a"))
	must(t, err)
	other := ipam.Space{Name: "a", Grid: iprange.DefaultGrid(), Mode: ipam.Blocks, Cooldown: time.Second}
	for _, s := range []ipam.Store{w.a, w.b} {
		got, err := s.Space(t.Context(), other)
		must(t, err)
		same(t, "the second's", first, got)
	}
}

func spaceOnce(t *testing.T, w pair) {
	answers := make([]ipam.Space, 16)
	together(t, w, len(answers), nil, func(s ipam.Store, n int) error {
		as := aSpace("a")
		as.MaxBlocks = n + 1
		var err error
		answers[n], err = s.Space(t.Context(), as)
		return err
	})
	for _, got := range answers[1:] {
		same(t, "what another caller got", answers[0], got)
	}
}

func spaceNames(t *testing.T, w pair) {
	for _, name := range []string{"", "A", "a_b", "a.b", "-a", "a-", "../a", "a/b", strings.Repeat("a", 64)} {
		if got, err := w.a.Space(t.Context(), aSpace(name)); err == nil {
			t.Errorf("%q: %+v", name, got)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.a.Space(ctx, aSpace("cancelled"))
	is(t, "a caller who has gone", err, context.Canceled)
}

func nodes(t *testing.T, w pair) {
	for n := range 3 {
		got, err := w.a.Nodes(t.Context())
		must(t, err)
		if got < 1 {
			t.Errorf("%d nodes", got)
		}
		b := ipam.Block{Ref: block("default", n), Mode: ipam.Leased, Owner: node(string(rune('a' + n)))}
		blockThings().made(t, w.b, b)
	}
}

// asked reads what is asked of a node, in order.
func askedOf(t *testing.T, s ipam.Store, node string) []ipam.BlockRef {
	t.Helper()
	refs, err := s.Asked(t.Context(), node)
	must(t, err)
	slices.SortFunc(refs, compareBlocks)
	return refs
}

func ask(t *testing.T, w pair) {
	same(t, "before", []ipam.BlockRef(nil), askedOf(t, w.a, "n1"))
	six := ipam.BlockRef{Space: "default", Prefix: netip.MustParsePrefix("2001:db8::40/122")}
	must(t, w.a.Ask(t.Context(), "n1", block("default", 1)))
	must(t, w.b.Ask(t.Context(), "n1", six))
	must(t, w.a.Ask(t.Context(), "n1", block("other", 1)))
	must(t, w.b.Ask(t.Context(), "n2", block("default", 2)))
	same(t, "n1", []ipam.BlockRef{block("default", 1), six, block("other", 1)}, askedOf(t, w.b, "n1"))
	same(t, "n2", []ipam.BlockRef{block("default", 2)}, askedOf(t, w.a, "n2"))
	same(t, "n3", []ipam.BlockRef(nil), askedOf(t, w.a, "n3"))
}

func askAgain(t *testing.T, w pair) {
	for range 3 {
		must(t, w.a.Ask(t.Context(), "n1", block("default", 1)))
		must(t, w.b.Ask(t.Context(), "n1", block("default", 1)))
	}
	same(t, "n1", []ipam.BlockRef{block("default", 1)}, askedOf(t, w.a, "n1"))
}

func askOnce(t *testing.T, w pair) {
	var want []ipam.BlockRef
	for n := range 12 {
		want = append(want, block("default", n))
	}
	together(t, w, 2*len(want), nil, func(s ipam.Store, n int) error { return s.Ask(t.Context(), "n1", want[n/2]) })
	same(t, "n1", want, askedOf(t, w.a, "n1"))
}

func answered(t *testing.T, w pair) {
	must(t, w.a.Answered(t.Context(), "n1", []ipam.BlockRef{block("default", 9)}))
	for n := range 4 {
		must(t, w.a.Ask(t.Context(), "n1", block("default", n)))
		must(t, w.a.Ask(t.Context(), "n2", block("default", n)))
	}
	must(t, w.b.Answered(t.Context(), "n1", []ipam.BlockRef{block("default", 0), block("default", 2), block("default", 9)}))
	must(t, w.b.Answered(t.Context(), "n1", nil))
	same(t, "n1", []ipam.BlockRef{block("default", 1), block("default", 3)}, askedOf(t, w.a, "n1"))
	must(t, w.a.Ask(t.Context(), "n1", block("default", 0)))
	same(t, "asked once more", []ipam.BlockRef{block("default", 0), block("default", 1), block("default", 3)}, askedOf(t, w.b, "n1"))
	if got := askedOf(t, w.b, "n2"); len(got) != 4 {
		t.Errorf("n2: %v", got)
	}
}

func usage(b ipam.Block) ipam.Usage {
	return ipam.Usage{
		Ref: b.Ref, Bitmap: []byte{1, 2, 3, 4, 5, 6, 7, 8}, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Owners:  []ipam.AddressOwner{{Addr: b.Ref.Prefix.Addr(), Owner: fullClaim(ipam.ClaimRef{}).Owner, Since: time.Date(2026, 1, 2, 3, 4, 4, 0, time.UTC)}},
		Version: b.Version,
	}
}

func mirrorVersion(t *testing.T, w pair) {
	k := blockThings()
	now := k.made(t, w.a, k.sample(0))
	for range 3 {
		v, err := w.a.Mirror(t.Context(), usage(now))
		must(t, err)
		same(t, "the block", k.with(now, v), k.now(t, w.b, now))
		now, err = k.update(t.Context(), w.b, k.with(now, v))
		must(t, err)
	}
	// The resourceVersion may be an old one.
	u := usage(now)
	u.Version.Resource = "1"
	v, err := w.a.Mirror(t.Context(), u)
	must(t, err)
	must(t, k.remove(t.Context(), w.b, now, v))
}

func mirrorUID(t *testing.T, w pair) {
	k := blockThings()
	old := k.made(t, w.a, k.sample(0))
	must(t, k.remove(t.Context(), w.a, old, old.Version))
	_, err := w.a.Mirror(t.Context(), usage(old))
	is(t, "of a deleted block", err, ipam.ErrNotFound)
	now := k.made(t, w.a, k.sample(0))
	u := usage(now)
	for _, uid := range []string{old.Version.UID, ""} {
		u.Version.UID = uid
		if _, err = w.a.Mirror(t.Context(), u); !errors.Is(err, ipam.ErrStale) {
			t.Errorf("of UID %q: %v", uid, err)
		}
	}
	same(t, "the block", now, k.now(t, w.b, now))
}

func mirrorBlock(t *testing.T, w pair) {
	k := blockThings()
	for n := range 3 {
		now := k.made(t, w.a, k.sample(n))
		v, err := w.b.Mirror(t.Context(), usage(now))
		must(t, err)
		same(t, "after Mirror", k.with(now, v), k.now(t, w.a, now))
		for _, change := range k.changes(now) {
			change, err = k.update(t.Context(), w.a, k.with(change, v))
			must(t, err)
			v, err = w.a.Mirror(t.Context(), usage(change))
			must(t, err)
			same(t, "after Update and Mirror", k.with(change, v), k.now(t, w.b, now))
		}
	}
}
