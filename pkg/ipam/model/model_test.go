package model

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// full asks for the long runs: minutes and up to 3 GiB.
const full = "META_CNI_MODEL"

func long(t *testing.T) bool {
	t.Helper()
	if os.Getenv(full) == "full" {
		return true
	}
	t.Logf("the bigger models run with %s=full", full)
	return false
}

func report(t *testing.T, c Config, r Result, begin time.Time) {
	t.Helper()
	t.Logf("%d addresses, %d sandboxes, %d late, %d crashes, %s: %d states, %d steps, depth %d, complete %v, %s, in %s",
		c.Addresses, c.Sandboxes, c.Late, c.Crashes, c.Without, r.States, r.Steps, r.Depth, r.Complete, r.Violation,
		time.Since(begin).Round(time.Millisecond))
}

func TestProtocolHolds(t *testing.T) {
	sizes := []Config{
		{Addresses: 1, Sandboxes: 2, Late: 0, Crashes: 0},
		{Addresses: 1, Sandboxes: 3, Late: 0, Crashes: 0},
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1},
	}
	if long(t) {
		sizes = append(
			sizes,
			Config{Addresses: 1, Sandboxes: 3, Late: 1, Crashes: 0},
			Config{Addresses: 1, Sandboxes: 2, Late: 2, Crashes: 0},
			Config{Addresses: 2, Sandboxes: 2, Late: 1, Crashes: 0},
			Config{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 3},
		)
	}
	for _, c := range sizes {
		t.Run(fmt.Sprintf("%d-%d-%d-%d", c.Addresses, c.Sandboxes, c.Late, c.Crashes), func(t *testing.T) {
			begin := time.Now()
			r, err := Check(c, 40_000_000)
			if err != nil {
				t.Fatal(err)
			}
			report(t, c, r, begin)
			if r.Violation != None {
				t.Fatalf("%s:\n%s", r.Violation, strings.Join(r.Story, "\n"))
			}
			if !r.Complete {
				t.Error("not all states were seen")
			}
		})
	}
}

func TestEachGuardIsNeeded(t *testing.T) {
	type guardCase struct {
		without Guard
		crashes int
		want    Kind
	}
	cases := []guardCase{
		{ClaimNeedsShared, 0, Duplicate},
		{SharedIsFinal, 0, Duplicate},
		{ReturnNeedsNoHeld, 0, Duplicate},
		{ReturnNeedsNoUse, 0, Unprotected},
		{DemoteNeedsClaims, 0, Unprotected},
		{DeleteUID, 0, Unprotected},
		{DeleteVersion, 0, Unprotected},
		{TouchClaim, 0, Unprotected},
		{TouchCancel, 0, Unprotected},
		{LogBeforeReply, 0, Unprotected},
		{ValidateReturn, 1, Unprotected},
		{OwnerCollects, 0, Unprotected},
		{FenceOnlyDead, 0, Unprotected},
		{ReturningIsClosed, 0, Unprotected},
		{EpochCounts, 1, Unprotected},
		{RealOwner, 0, Unprotected},
		// Redundant: before a block is deleted, "returning" is in the log, and
		// a block that is not in the log has no DELETE on its way. The touch
		// stays, since it costs one request for each lost reply.
		{TouchBlock, 0, None},
	}
	if long(t) {
		cases = append(cases, guardCase{TouchBlock, 1, None})
	}
	for _, tc := range cases {
		t.Run(strings.ReplaceAll(tc.without.String(), " ", "-"), func(t *testing.T) {
			c := Config{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: tc.crashes, Without: tc.without}
			begin := time.Now()
			r, err := Check(c, 10_000_000)
			if err != nil {
				t.Fatal(err)
			}
			report(t, c, r, begin)
			if r.Violation != tc.want {
				t.Fatalf("%s, want %s:\n%s", r.Violation, tc.want, strings.Join(r.Story, "\n"))
			}
			if tc.want == None && !r.Complete {
				t.Error("not all states were seen")
			}
			if len(r.Story) != 0 && len(r.Story) != r.Depth {
				t.Errorf("the story has %d lines of %d:\n%s", len(r.Story), r.Depth, strings.Join(r.Story, "\n"))
			}
			t.Log("\n" + strings.Join(r.Story, "\n"))
		})
	}
}

// A story as a reader meets it.
func TestStory(t *testing.T) {
	r, err := Check(Config{Addresses: 1, Sandboxes: 1, Late: 1, Without: TouchCancel}, 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"node A: ADD of sandbox 0 begins",
		"node A: sends CREATE block, Leased",
		"API: applies CREATE block, Leased of node A",
		"node A: has the reply to CREATE block, Leased: done",
		"node A: logs returning",
		"node A: sends DELETE block",
		"API: applies DELETE block of node A",
		"node A: cancels the return without a touch",
		"node A: logs assign .0 to sandbox 0",
		"node A: answers ADD of sandbox 0 with .0",
	}
	if diff := cmp.Diff(want, r.Story); diff != "" || r.Violation != Unprotected {
		t.Errorf("%s (-want +got):\n%s", r.Violation, diff)
	}
}

func TestNothingIsStuck(t *testing.T) {
	// The controller's requests need a place among the late ones, so no crash
	// without one.
	sizes := []Config{
		{Addresses: 1, Sandboxes: 2, Late: 0, Crashes: 0},
		{Addresses: 1, Sandboxes: 1, Late: 1, Crashes: 1},
	}
	if long(t) {
		sizes = append(
			sizes,
			Config{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1},
			Config{Addresses: 2, Sandboxes: 2, Late: 0, Crashes: 0},
			Config{Addresses: 1, Sandboxes: 1, Late: 2, Crashes: 2},
		)
	}
	for _, c := range sizes {
		for goal, name := range map[Goal]string{Clean: "clean", Served: "served"} {
			t.Run(fmt.Sprintf("%s-%d-%d-%d-%d", name, c.Addresses, c.Sandboxes, c.Late, c.Crashes), func(t *testing.T) {
				begin := time.Now()
				r, stuck, err := Reach(c, goal, 10_000_000)
				if err != nil {
					t.Fatal(err)
				}
				report(t, c, r, begin)
				if !r.Complete || stuck != 0 {
					t.Errorf("%d stuck states, complete %v; the first:\n%s", stuck, r.Complete, strings.Join(r.Story, "\n"))
				}
			})
		}
	}
}

func TestRandomWalks(t *testing.T) {
	walks, seed := 20_000, uint64(1)
	if long(t) {
		walks, seed = 800_000, uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	c := Config{Addresses: 2, Sandboxes: 3, Late: 2, Crashes: 7}
	begin := time.Now()
	r, err := Walk(c, seed, walks, 100)
	if err != nil {
		t.Fatal(err)
	}
	report(t, c, r, begin)
	if r.Violation != None {
		t.Errorf("%s with seed %d:\n%s", r.Violation, seed, strings.Join(r.Story, "\n"))
	}
}

// A walk is worth nothing if it never meets what it looks for.
func TestRandomWalksFindViolations(t *testing.T) {
	for g := ClaimNeedsShared; g <= RealOwner; g++ {
		if g == TouchBlock {
			continue
		}
		c := Config{Addresses: 2, Sandboxes: 3, Late: 2, Crashes: 7, Without: g}
		begin := time.Now()
		r, err := Walk(c, 1, 30_000, 100)
		if err != nil {
			t.Fatal(err)
		}
		report(t, c, r, begin)
		if r.Violation == None {
			t.Errorf("without %q: nothing found in %d steps", g, r.Steps)
		}
	}
}

// Every state that a walk meets is the same after packing, and so is its form.
func TestPack(t *testing.T) {
	for g := Whole; g <= RealOwner; g++ {
		c := Config{Addresses: 2, Sandboxes: 3, Late: 2, Crashes: 7, Without: g}
		x := &expander{c: &c}
		s := c.initial()
		for i := range 5000 {
			steps := x.from(&s)
			s = steps[(i*7+i/3)%len(steps)].to
			back := unpack(s.pack())
			if back != s {
				t.Fatalf("step %d:\n%+v comes back as\n%+v", i, s, back)
			}
			if back.normal(&c); back != s {
				t.Fatalf("step %d: %+v has the normal form %+v", i, s, back)
			}
			if s.crashes == maxCrash {
				s = c.initial()
			}
		}
	}
}

func TestConfigCheck(t *testing.T) {
	good := Config{Addresses: 1, Sandboxes: 1}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for _, bad := range []Config{
		{},
		{Addresses: 3, Sandboxes: 1},
		{Addresses: 1, Sandboxes: 4},
		{Addresses: 1, Sandboxes: 1, Late: 3},
		{Addresses: 1, Sandboxes: 1, Crashes: 8},
		{Addresses: 1, Sandboxes: 1, Without: RealOwner + 1},
	} {
		if _, err := Check(bad, 10); err == nil {
			t.Errorf("%+v is accepted by Check", bad)
		}
		if _, err := Walk(bad, 1, 1, 1); err == nil {
			t.Errorf("%+v is accepted by Walk", bad)
		}
		if _, _, err := Reach(bad, Clean, 10); err == nil {
			t.Errorf("%+v is accepted by Reach", bad)
		}
	}
	r, err := Check(Config{Addresses: 1, Sandboxes: 2}, 100)
	if err != nil || r.Complete {
		t.Errorf("100 states are complete: %+v, %v", r, err)
	}
	r, stuck, err := Reach(Config{Addresses: 1, Sandboxes: 2}, Clean, 100)
	if err != nil || r.Complete || stuck != 0 {
		t.Errorf("100 states are complete: %+v, %d, %v", r, stuck, err)
	}
}
