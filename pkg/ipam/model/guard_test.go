package model

import (
	"strings"
	"testing"
	"time"
)

// guardCase is a guard, what the model must have for it to matter, and what
// goes wrong without it.
type guardCase struct {
	without   Guard
	crashes   int
	with      Feature
	sandboxes int // 0 is 2
	want      Kind
}

func guardCases() []guardCase {
	return []guardCase{
		{without: ClaimNeedsShared, want: Duplicate},
		{without: SharedIsFinal, want: Duplicate},
		{without: ReturnNeedsNoHeld, want: Duplicate},
		{without: ReturnNeedsNoUse, want: Unprotected},
		{without: DemoteNeedsClaims, want: Unprotected},
		{without: DeleteUID, want: Unprotected},
		{without: DeleteVersion, want: Unprotected},
		{without: TouchClaim, want: Unprotected},
		{without: TouchCancel, want: Unprotected},
		{without: LogBeforeReply, want: Unprotected},
		{without: TakeBack, crashes: 1, want: Unprotected},
		{without: OwnerCollects, want: Unprotected},
		{without: FenceOnlyDead, want: Unprotected},
		{without: ReturningIsClosed, want: Unprotected},
		{without: BootCounts, crashes: 1, want: Unprotected},
		{without: RealOwner, want: Unprotected},
		// Redundant: before a block is deleted, "returning" is in the log, and
		// a block that is not in the log has no DELETE on its way. The touch
		// stays, since it costs one request for each lost reply.
		{without: TouchBlock, want: None},
		// Redundant: with the version of before, each request is refused and
		// the block is read then. It is read first to fail early.
		{without: ReturningReread, crashes: 1, sandboxes: 1, want: None},

		{without: CoolingOnly, with: Cooling | FromShared, want: Unprotected},
		{without: TakeVersion, with: Cooling | FromShared, want: Unprotected},
		{without: TakeVersion, with: KeepPod | FromShared, want: Unprotected},
		{without: CoolVersion, with: Cooling | FromShared, want: Unprotected},
		{without: CoolVersion, with: KeepPod | FromShared, want: Unprotected},
		{without: DeleteVersion, with: Cooling | FromShared, want: Unprotected},
		{without: TouchClaim, with: Cooling | FromShared, want: Unprotected},
		{without: ScanReadsFirst, with: Cooling | FromShared, want: Unprotected},
		{without: OldLogUnused, crashes: 1, with: LogLoss, want: Unprotected},
		{without: OldLogStays, crashes: 1, with: LogLoss | FromShared, want: Unprotected},
		{without: OldLogCollected, crashes: 1, with: LogLoss, want: Unprotected},
		{without: ImportStays, with: Import, want: Unprotected},
		{without: AdoptIntent, with: Import, want: Unprotected},
		{without: KeeperOnly, with: KeepPod | FromShared, sandboxes: 3, want: Stolen},
		{without: KeptStays, with: KeepPod | Cooling | FromShared, sandboxes: 3, want: Stolen},
		{without: KeptStays, with: KeepClaim | FromShared, want: Unprotected},
		{without: ForgetUnused, with: KeepClaim | FromShared, want: Unprotected},
		{without: OwnReply, with: KeepClaim | FromShared, want: Unprotected},
		{without: AskAgain, with: KeepClaim | Import, want: Unprotected},
	}
}

func TestEachGuardIsNeeded(t *testing.T) {
	cases := guardCases()
	if long(t) {
		cases = append(cases, guardCase{without: TouchBlock, crashes: 1}, guardCase{without: ReturningReread, crashes: 1})
	}
	for _, tc := range cases {
		c := Config{Addresses: 1, Sandboxes: 2, Late: 1, Crashes: tc.crashes, With: tc.with, Without: tc.without}
		if tc.sandboxes != 0 {
			c.Sandboxes = tc.sandboxes
		}
		t.Run(strings.ReplaceAll(tc.without.String(), " ", "-")+"-"+c.name(), func(t *testing.T) {
			beside(t)
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

// A new guard without a case, or without a name, is not tested.
func TestEachGuardHasACase(t *testing.T) {
	seen := map[Guard]bool{}
	names := map[string]bool{}
	for _, tc := range guardCases() {
		seen[tc.without] = true
	}
	for g := ClaimNeedsShared; g <= lastGuard; g++ {
		if !seen[g] {
			t.Errorf("no case leaves out %q", g)
		}
		if names[g.String()] || g.String() == "" {
			t.Errorf("guard %d has the name %q of another", g, g)
		}
		names[g.String()] = true
	}
}

// A walk is worth nothing if it never meets what it looks for.
func TestRandomWalksFindViolations(t *testing.T) {
	t.Parallel()
	for _, tc := range guardCases() {
		// An imported claim is there once, at the start: walks are too blind to
		// do all that AskAgain's loss needs with it. The exhaustive search finds it.
		if tc.want == None || tc.without == AskAgain {
			continue
		}
		c := Config{Addresses: 2, Sandboxes: 3, Late: 2, Crashes: 7, With: tc.with, Without: tc.without}
		if tc.without == OwnReply { // too rare where there is much else to do
			c = Config{Addresses: 1, Sandboxes: 2, Late: 1, With: tc.with, Without: tc.without}
		}
		begin := time.Now()
		r, err := Walk(c, 1, 30_000, 100)
		if err != nil {
			t.Fatal(err)
		}
		report(t, c, r, begin)
		if r.Violation == None {
			t.Errorf("%s without %q: nothing found in %d steps", c.name(), tc.without, r.Steps)
		}
	}
}
