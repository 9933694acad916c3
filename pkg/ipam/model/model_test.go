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

// beside lets a test run beside others, but not where each of them needs all
// the memory.
func beside(t *testing.T) {
	t.Helper()
	if !long(t) {
		t.Parallel()
	}
}

func report(t *testing.T, c Config, r Result, begin time.Time) {
	t.Helper()
	t.Logf("%s, %s: %d states, %d steps, depth %d, complete %v, %s, in %s",
		c.name(), c.Without, r.States, r.Steps, r.Depth, r.Complete, r.Violation,
		time.Since(begin).Round(time.Millisecond))
}

// name is the size of c and what it has, to find a test again.
func (c Config) name() string {
	name := fmt.Sprintf("%d-%d-%d-%d", c.Addresses, c.Sandboxes, c.Late, c.Crashes)
	for i, feature := range []string{"cooling", "log-loss", "import", "keep-pod", "keep-claim", "from-shared"} {
		if c.With>>i&1 != 0 {
			name += "-" + feature
		}
	}
	return name
}

func TestProtocolHolds(t *testing.T) {
	sizes := []Config{
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1},
		{Addresses: 1, Sandboxes: 3},
		{Addresses: 1, Sandboxes: 2, With: Cooling},
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: Cooling | FromShared},
		{Addresses: 1, Sandboxes: 3, Late: 1, With: Cooling | FromShared},
		{Addresses: 1, Sandboxes: 2, Late: 2, With: Cooling | FromShared},
		{Addresses: 1, Sandboxes: 2, Crashes: 1, With: LogLoss},
		{Addresses: 1, Sandboxes: 1, Late: 1, Crashes: 1, With: LogLoss},
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 2, With: LogLoss | FromShared},
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: Import | Cooling},
		{Addresses: 1, Sandboxes: 3, Crashes: 1, With: Import},
		{Addresses: 2, Sandboxes: 2, With: Import},
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: Import | LogLoss},
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: KeepPod | FromShared},
		{Addresses: 1, Sandboxes: 3, Late: 1, With: KeepPod | Cooling | FromShared},
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: KeepClaim | FromShared},
		{Addresses: 1, Sandboxes: 3, Late: 1, With: KeepClaim | Cooling | FromShared},
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: KeepClaim | Import},
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: KeepPod | Import},
	}
	if long(t) {
		sizes = append(
			sizes,
			Config{Addresses: 1, Sandboxes: 3, Late: 1},
			Config{Addresses: 1, Sandboxes: 2, Late: 2},
			Config{Addresses: 2, Sandboxes: 2, Late: 1},
			Config{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 3},
			Config{Addresses: 1, Sandboxes: 2, Late: 1, With: Cooling},
			Config{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: Cooling},
			Config{Addresses: 1, Sandboxes: 2, Late: 2, Crashes: 1, With: Cooling | FromShared},
			Config{Addresses: 2, Sandboxes: 2, Late: 1, With: Cooling | FromShared},
			Config{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: LogLoss},
			Config{Addresses: 1, Sandboxes: 3, Late: 1, Crashes: 2, With: Import | Cooling},
			Config{Addresses: 2, Sandboxes: 2, Late: 1, Crashes: 1, With: Import},
			Config{Addresses: 1, Sandboxes: 3, Late: 1, Crashes: 2, With: KeepPod | Cooling | LogLoss | FromShared},
			Config{Addresses: 1, Sandboxes: 3, Late: 1, Crashes: 2, With: KeepClaim | Cooling | LogLoss | FromShared},
			Config{Addresses: 1, Sandboxes: 2, Late: 2, Crashes: 1, With: KeepClaim | Import},
		)
	}
	for _, c := range sizes {
		t.Run(c.name(), func(t *testing.T) {
			beside(t)
			begin := time.Now()
			r, err := Check(c, 60_000_000)
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
		{Addresses: 1, Sandboxes: 2},
		{Addresses: 1, Sandboxes: 1, Late: 1, Crashes: 1},
		{Addresses: 1, Sandboxes: 2, Late: 1, With: Cooling | FromShared},
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: LogLoss | FromShared},
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: Import},
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: KeepPod | FromShared},
		{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: KeepClaim | FromShared},
	}
	if long(t) {
		sizes = append(
			sizes,
			Config{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1},
			Config{Addresses: 2, Sandboxes: 2},
			Config{Addresses: 1, Sandboxes: 1, Late: 2, Crashes: 2},
			Config{Addresses: 1, Sandboxes: 1, Late: 1, Crashes: 1, With: Cooling | LogLoss},
			Config{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: 1, With: Import | Cooling | LogLoss},
		)
	}
	for _, c := range sizes {
		for goal, name := range map[Goal]string{Clean: "clean", Served: "served"} {
			t.Run(name+"-"+c.name(), func(t *testing.T) {
				beside(t)
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

// Everything at once is too much for every state, but not for walks.
func TestRandomWalks(t *testing.T) {
	beside(t)
	walks, seed := 7_000, uint64(1)
	if long(t) {
		walks, seed = 300_000, uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	for _, with := range []Feature{
		0, Cooling | LogLoss, Cooling | LogLoss | Import | KeepPod, Cooling | LogLoss | Import | KeepClaim,
	} {
		c := Config{Addresses: 2, Sandboxes: 3, Late: 2, Crashes: 7, With: with}
		begin := time.Now()
		r, err := Walk(c, seed, walks, 100)
		if err != nil {
			t.Fatal(err)
		}
		report(t, c, r, begin)
		if r.Violation != None {
			t.Errorf("%s: %s with seed %d:\n%s", c.name(), r.Violation, seed, strings.Join(r.Story, "\n"))
		}
	}
}

// Every state that a walk meets is the same after packing, and so is its form.
func TestPack(t *testing.T) {
	t.Parallel()
	for _, with := range []Feature{0, Cooling | LogLoss | Import | KeepPod, Cooling | LogLoss | FromShared | KeepClaim} {
		for g := Whole; g <= lastGuard; g++ {
			walkPacked(t, Config{Addresses: 2, Sandboxes: 3, Late: 2, Crashes: 7, With: with, Without: g})
		}
	}
}

func walkPacked(t *testing.T, c Config) {
	t.Helper()
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

// The packed form must have room for the widest state.
func TestPackFits(t *testing.T) {
	var p packer
	(&state{}).packInto(&p)
	if p.at > 128 {
		t.Errorf("%d bits", p.at)
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
		{Addresses: 1, Sandboxes: 1, Without: lastGuard + 1},
		{Addresses: 1, Sandboxes: 1, With: KeepPod | KeepClaim},
		{Addresses: 1, Sandboxes: 1, With: everyFeature + 1},
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
