package chain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meta-cni/meta-cni/pkg/journal"
)

// Whatever fails how often and whenever the daemon is restarted: each pass of
// an undo or a DEL asks exactly the delegates that were touched and not yet
// removed, in reverse, and the journal forgets the set when all are and not
// before.
func TestEveryTouchedDelegateIsRemoved(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		n := rapid.IntRange(1, 4).Draw(rt, "delegates")
		failAt := rapid.IntRange(0, n).Draw(rt, "ADD fails at")
		r.unstarted = map[int]bool{failAt: rapid.Bool().Draw(rt, "before a process")}
		set := r.begin(n, "", journal.Namespace{})

		pending := make([]int, 0, n)
		for i := range min(failAt+1, n) {
			if i != failAt || !r.unstarted[i] {
				pending = append(pending, i)
			}
		}
		slices.Reverse(pending)
		r.faults[fmt.Sprintf("ADD %d", failAt)] = fails
		failing := drawFaults(rt, r, n)
		_, err := r.Chain.Add(t.Context(), r.j, set, Trip{})
		if (err != nil) != (failAt < n) {
			rt.Fatalf("ADD: %v", err)
		}
		adds := min(failAt+1, n)
		if failAt < n {
			pending = wantPass(rt, r, r.asked[adds:], pending, failing)
		} else {
			wantPass(rt, r, r.asked[adds:], nil, nil)
		}
		for pass := 0; len(pending) > 0 || failAt == n && pass == 0; pass++ {
			if rapid.Bool().Draw(rt, "restart") {
				r.reopen("boot-1")
				set, _ = r.j.Get(key())
			}
			failing = drawFaults(rt, r, n)
			if pass > 5 {
				r.faults, failing = nil, nil
			}
			r.forget()
			err := r.Chain.Del(t.Context(), r.j, set, "again", Trip{})
			pending = wantPass(rt, r, r.asked, pending, failing)
			if (err != nil) != (len(pending) > 0) || err != nil && !errors.Is(err, errFault) {
				rt.Fatalf("DEL: %v, pending %v", err, pending)
			}
		}
		r.reopen("boot-1")
		if left := r.j.Sets(); len(left) > 0 {
			rt.Fatalf("the journal holds %v", left[0].State())
		}
	})
}

// drawFaults makes the DEL of some delegates fail.
func drawFaults(rt *rapid.T, r *rig, n int) map[int]bool {
	failing := map[int]bool{}
	for i := range n {
		failing[i] = rapid.Bool().Draw(rt, fmt.Sprintf("DEL %d fails", i))
		r.faults[fmt.Sprintf("DEL %d", i)] = func(ctx context.Context) error {
			if failing[i] {
				return errFault
			}
			return ctx.Err()
		}
	}
	return failing
}

// wantPass checks what one pass asked and returns what is pending after it.
func wantPass(rt *rapid.T, r *rig, asked []string, pending []int, failing map[int]bool) []int {
	var want []string
	for _, i := range pending {
		want = append(want, fmt.Sprintf("DEL %d", i))
	}
	if diff := cmp.Diff(want, slices.Clone(asked), cmp.Transformer("empty", func(s []string) string { return fmt.Sprint(s) })); diff != "" {
		rt.Fatalf("asked (-want +got):\n%s", diff)
	}
	pending = slices.DeleteFunc(slices.Clone(pending), func(i int) bool { return !failing[i] })
	if _, known := r.j.Get(key()); len(pending) > 0 && !known {
		rt.Fatalf("the journal forgot %v", pending)
	}
	return pending
}
