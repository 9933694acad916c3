package ipamtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

func addr(n int) ipam.ClaimRef {
	return ipam.ClaimRef{Space: "default", Addr: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestOutcomes: what the caller is told, and what is there afterwards.
func TestOutcomes(t *testing.T) {
	because := errors.New("because")
	for _, c := range []struct {
		name      string
		outcome   ipamtest.Outcome
		fault     error
		err       error
		there     bool
		waiting   int
		lateErr   error
		thereLate bool
	}{
		{"done", ipamtest.Done, nil, nil, true, 0, nil, true},
		{"lost", ipamtest.Lost, nil, ipamtest.ErrNoAnswer, false, 0, nil, false},
		{"lost, with an error", ipamtest.Lost, because, because, false, 0, nil, false},
		{"unanswered", ipamtest.Unanswered, nil, ipamtest.ErrNoAnswer, true, 0, nil, true},
		{"late", ipamtest.Late, nil, ipamtest.ErrNoAnswer, false, 1, nil, true},
	} {
		m := ipamtest.NewMemory()
		node := m.As("n1")
		m.SetFaults(func(call ipamtest.Call) (ipamtest.Outcome, error) {
			if diff := cmp.Diff(ipamtest.Call{Who: "n1", Op: ipamtest.OpCreateClaim, Name: "default.10.0.0.1"}, call); diff != "" {
				t.Errorf("%s: %s", c.name, diff)
			}
			return c.outcome, c.fault
		})
		_, err := node.CreateClaim(t.Context(), ipam.Claim{Ref: addr(1)})
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
		m.SetFaults(nil)
		if _, err = m.GetClaim(t.Context(), addr(1)); (err == nil) != c.there {
			t.Errorf("%s: then %v", c.name, err)
		}
		if len(m.Waiting()) != c.waiting {
			t.Errorf("%s: %v wait", c.name, m.Waiting())
		}
		if c.waiting > 0 {
			must(t, m.ApplyLate(0))
		}
		if _, err = m.GetClaim(t.Context(), addr(1)); (err == nil) != c.thereLate {
			t.Errorf("%s: in the end %v", c.name, err)
		}
	}
}

// TestLateRequests come in any order, and are refused when they don't fit any
// more.
func TestLateRequests(t *testing.T) {
	m := ipamtest.NewMemory()
	made, err := m.CreateClaim(t.Context(), ipam.Claim{Ref: addr(1)})
	must(t, err)
	m.SetFaults(func(ipamtest.Call) (ipamtest.Outcome, error) { return ipamtest.Late, nil })
	for _, err := range []error{
		m.DeleteClaim(t.Context(), made.Ref, made.Version),
		second(m.UpdateClaim(t.Context(), made)),
		second(m.CreateClaim(t.Context(), ipam.Claim{Ref: addr(2)})),
		second(m.CreateClaim(t.Context(), made)),
		second(m.GetClaim(t.Context(), made.Ref)), // a read doesn't wait
	} {
		if !errors.Is(err, ipamtest.ErrNoAnswer) {
			t.Error(err)
		}
	}
	if n := len(m.Waiting()); n != 4 {
		t.Fatalf("%d wait", n)
	}
	must(t, m.ApplyLate(1)) // the update first
	if err := m.ApplyLate(0); !errors.Is(err, ipam.ErrStale) {
		t.Errorf("the late deletion: %v", err)
	}
	m.DropLate(0)
	if err := m.ApplyLate(0); !errors.Is(err, ipam.ErrExists) {
		t.Errorf("the late creation: %v", err)
	}
	m.SetFaults(nil)
	if _, err := m.GetClaim(t.Context(), addr(2)); !errors.Is(err, ipam.ErrNotFound) {
		t.Errorf("the dropped creation: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// TestFaultsMayChangeTheWorld before the request is carried out.
func TestFaultsMayChangeTheWorld(t *testing.T) {
	m := ipamtest.NewMemory()
	other := m.As("other")
	m.SetFaults(func(c ipamtest.Call) (ipamtest.Outcome, error) {
		if c.Who == "" {
			_, err := other.CreateClaim(t.Context(), ipam.Claim{Ref: addr(1), Pool: "other's"})
			must(t, err)
		}
		return ipamtest.Done, nil
	})
	if _, err := m.CreateClaim(t.Context(), ipam.Claim{Ref: addr(1)}); !errors.Is(err, ipam.ErrExists) {
		t.Error(err)
	}
}

func TestRandomIsRepeatable(t *testing.T) {
	run := func(seed uint64) (text string) {
		m := ipamtest.NewMemory()
		m.SetFaults(ipamtest.Random(seed, ipamtest.Chances{Lost: 0.2, Unanswered: 0.2, Late: 0.2}))
		for n := range 200 {
			made, err := m.CreateClaim(t.Context(), ipam.Claim{Ref: addr(n % 40)})
			text += fmt.Sprint(made.Version, err, len(m.Waiting()), "\n")
			if n%7 == 0 && len(m.Waiting()) > 0 {
				text += fmt.Sprint(m.ApplyLate(n % len(m.Waiting())))
			}
		}
		return text
	}
	first := run(1)
	if again := run(1); again != first {
		t.Error("the same seed gave other answers")
	}
	if first == run(2) {
		t.Error("another seed gave the same answers")
	}
}

// TestLag: lists that may be old are, by as many changes as said; reads that
// may not aren't.
func TestLag(t *testing.T) {
	m := ipamtest.NewMemory()
	all, err := iprange.ParseSet("10.0.0.0/8")
	must(t, err)
	create := func(n int) ipam.Claim {
		c, err := m.CreateClaim(t.Context(), ipam.Claim{Ref: addr(n), Node: ipam.Node{Name: "n1"}})
		must(t, err)
		return c
	}
	first := create(1)
	late := m.As("late")
	late.SetLag(2)
	var seen []int
	look := func() {
		taken, err := late.Taken(t.Context(), "default", all)
		must(t, err)
		mine, err := late.NodeClaims(t.Context(), "n1")
		must(t, err)
		now, err := late.SpaceClaims(t.Context(), "default", all)
		must(t, err)
		seen = append(seen, len(taken), len(mine), len(now))
	}
	look()
	create(2)
	look()
	create(3)
	look()
	create(4)
	look()
	must(t, m.DeleteClaim(t.Context(), first.Ref, first.Version))
	look()
	late.SetLag(0)
	look()
	// taken, own, now: own claims are never ones that aren't there.
	want := []int{1, 1, 1, 1, 1, 2, 1, 1, 3, 2, 2, 4, 3, 2, 3, 3, 3, 3}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
	late.SetLag(1)
	for n := range 10_000 { // more than the store remembers
		create(100 + n)
	}
	taken, err := late.Taken(t.Context(), "default", all)
	must(t, err)
	if len(taken) != 3+9_999 {
		t.Errorf("%d are taken", len(taken))
	}
}

func TestCounts(t *testing.T) {
	m := ipamtest.NewMemory()
	ref := ipam.BlockRef{Space: "default", Prefix: netip.MustParsePrefix("10.0.0.0/26")}
	b, err := m.CreateBlock(t.Context(), ipam.Block{Ref: ref})
	must(t, err)
	_, err = m.Mirror(t.Context(), ipam.Usage{Ref: ref, Version: b.Version, Bitmap: []byte{1}})
	must(t, err)
	_, _ = m.CreateClaim(t.Context(), ipam.Claim{Ref: addr(1)})
	_, _ = m.CreateClaim(t.Context(), ipam.Claim{Ref: addr(1)})
	must(t, m.Ask(t.Context(), "n1", ref))
	must(t, m.Answered(t.Context(), "n1", []ipam.BlockRef{ref}))
	_, _ = m.NodeBlocks(t.Context(), "n1")
	if diff := cmp.Diff(ipamtest.Writes{Blocks: 1, Claims: 2, Mirrors: 1, Nodes: 2}, m.Writes()); diff != "" {
		t.Error(diff)
	}
	if n := m.Counts()[ipamtest.OpNodeBlocks]; n != 1 {
		t.Errorf("NodeBlocks was counted %d times", n)
	}
	u, ok := m.Usage(ref)
	if !ok || !cmp.Equal(u.Bitmap, []byte{1}) {
		t.Errorf("usage %v %v", u, ok)
	}
	blocks, claims := m.All()
	if len(blocks) != 1 || len(claims) != 1 || !cmp.Equal(blocks[0].Ref, ref, cmpopts.EquateComparable(ref.Prefix)) {
		t.Errorf("all: %v %v", blocks, claims)
	}
	m.ResetCounts()
	if len(m.Counts()) != 0 {
		t.Error("counts are left")
	}
}

func BenchmarkMemory(b *testing.B) {
	ctx := context.Background()
	b.Run("claim", func(b *testing.B) {
		m := ipamtest.NewMemory()
		for n := 0; b.Loop(); n++ {
			c, err := m.CreateClaim(ctx, ipam.Claim{Ref: addr(n), Node: ipam.Node{Name: "n1"}})
			must(b, err)
			if n%2 == 0 {
				must(b, m.DeleteClaim(ctx, c.Ref, c.Version))
			}
		}
	})
	for _, blocks := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("SpaceBlocks of %d", blocks), func(b *testing.B) {
			m := ipamtest.NewMemory()
			for n := range blocks {
				prefix := netip.PrefixFrom(addr(n*64).Addr, 26)
				_, err := m.CreateBlock(ctx, ipam.Block{Ref: ipam.BlockRef{Space: "default", Prefix: prefix}})
				must(b, err)
			}
			within, err := iprange.ParseSet("10.0.1.0/24")
			must(b, err)
			for b.Loop() {
				found, err := m.SpaceBlocks(ctx, "default", within)
				if err != nil || len(found) != 4 {
					b.Fatal(len(found), err)
				}
			}
		})
	}
}
