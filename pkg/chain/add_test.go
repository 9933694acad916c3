package chain

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

func TestAdd(t *testing.T) {
	r := newRig(t)
	set := r.begin(3, "", journal.Namespace{})
	phases := map[string]bool{}
	trip := Trip{Trace: map[string]string{"TRACEPARENT": "x"}, Timing: func(phase string, _ time.Duration) { phases[phase] = true }}
	got, err := r.Chain.Add(t.Context(), r.j, set, trip)
	if err != nil {
		t.Fatal(err)
	}
	r.wantAsked("ADD 0", "ADD 1", "ADD 2")
	want := []attach.Attachment{{Delegate: 0, Result: result(0)}, {Delegate: 1, Result: result(1)}, {Delegate: 2, Result: result(2)}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attachments (-want +got):\n%s", diff)
	}
	for _, c := range r.calls {
		if c.Trace["TRACEPARENT"] != "x" || c.Previous != nil {
			t.Errorf("call %+v", c)
		}
	}
	if !phases["if0"] || !phases["if1"] || !phases["if2"] {
		t.Errorf("timed phases: %v", phases)
	}
	state := r.stored()
	if diff := cmp.Diff(want, state.Attachments); state.Phase != journal.Committed || diff != "" {
		t.Errorf("journal: %s %s", state.Phase, diff)
	}
}

// Each place of failure: what was touched is undone in reverse, what was not
// is not asked, and nothing is left.
func TestAddFails(t *testing.T) {
	for at := range 3 {
		for _, unstarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("at %d, before a process: %v", at, unstarted), func(t *testing.T) {
				r := newRig(t)
				r.unstarted = map[int]bool{at: unstarted}
				r.faults[fmt.Sprintf("ADD %d", at)] = func(context.Context) error {
					return fmt.Errorf("plugin: %w", types.NewError(120, "of the plugin", ""))
				}
				_, err := r.Chain.Add(t.Context(), r.j, r.begin(3, "", journal.Namespace{}), Trip{})
				var e *types.Error
				if !errors.As(err, &e) || e.Code != 120 {
					t.Errorf("error %v, want code 120", err)
				}
				if want := fmt.Sprintf("network ns/n%d: interface if%d: plugin: of the plugin", at, at); err.Error() != want {
					t.Errorf("error %q, want %q", err, want)
				}
				var want []string
				for i := range at + 1 {
					want = append(want, fmt.Sprintf("ADD %d", i))
				}
				for i := at; i >= 0; i-- {
					if i != at || !unstarted {
						want = append(want, fmt.Sprintf("DEL %d", i))
					}
				}
				r.wantAsked(want...)
				r.wantFiles(0)
				if _, ok := r.j.Get(key()); ok {
					t.Error("the journal still has the set")
				}
			})
		}
	}
}

// The undo shows each delegate the result of its own ADD, and none to the one
// that failed.
func TestUndoShowsResults(t *testing.T) {
	r := newRig(t)
	r.faults["ADD 1"] = fails
	if _, err := r.Chain.Add(t.Context(), r.j, r.begin(2, "", journal.Namespace{}), Trip{}); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	r.wantAsked("ADD 0", "ADD 1", "DEL 1", "DEL 0")
	if r.calls[2].Previous != nil || string(r.calls[3].Previous) != string(result(0)) {
		t.Errorf("previous results: %s, %s", r.calls[2].Previous, r.calls[3].Previous)
	}
}

// What the undo can't remove stays, and only that is asked again, also by a
// daemon that was restarted.
func TestUndoFails(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			r := newRig(t)
			r.faults["ADD 2"], r.faults["DEL 1"] = fails, fails
			set := r.begin(3, "", journal.Namespace{})
			if _, err := r.Chain.Add(t.Context(), r.j, set, Trip{}); !errors.Is(err, errFault) {
				t.Errorf("error %v, want the cause of the failure", err)
			}
			r.wantAsked("ADD 0", "ADD 1", "ADD 2", "DEL 2", "DEL 1", "DEL 0")
			r.forget()
			if restart {
				state := r.stored()
				if state.Phase != journal.Deleting || state.Steps[1].Error != "injected" || !strings.HasPrefix(state.Reason, "undo: network ns/n2") {
					t.Errorf("journal: %s %q, step 1 %+v", state.Phase, state.Reason, state.Steps[1])
				}
				set, _ = r.j.Get(key())
			}
			if err := r.Chain.Del(t.Context(), r.j, set, "again", Trip{}); !errors.Is(err, errFault) {
				t.Errorf("error %v", err)
			}
			r.wantAsked("DEL 1")
			r.wantFiles(1)
			r.forget()
			delete(r.faults, "DEL 1")
			if err := r.Chain.Del(t.Context(), r.j, set, "again", Trip{}); err != nil {
				t.Error(err)
			}
			r.wantAsked("DEL 1")
			r.wantFiles(0)
		})
	}
}

// The runtime goes away in mid-ADD: the undo has time of its own.
func TestAddIsCancelled(t *testing.T) {
	gone := errors.New("the caller is gone")
	for _, obeys := range []bool{true, false} {
		t.Run(fmt.Sprintf("delegate obeys %v", obeys), func(t *testing.T) {
			r := newRig(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			r.faults["ADD 1"] = func(ctx context.Context) error {
				cancel(gone)
				if !obeys {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}
			for i := range 3 {
				r.faults[fmt.Sprintf("DEL %d", i)] = func(ctx context.Context) error {
					if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) <= 0 || time.Until(deadline) > 20*time.Second {
						t.Errorf("the undo has time until %v", deadline)
					}
					return ctx.Err()
				}
			}
			_, err := r.Chain.Add(ctx, r.j, r.begin(3, "", journal.Namespace{}), Trip{})
			if !errors.Is(err, gone) {
				t.Errorf("error %v, want %v", err, gone)
			}
			r.wantAsked("ADD 0", "ADD 1", "DEL 1", "DEL 0")
			r.wantFiles(0)
		})
	}
}

// A delegate has its own limit, shorter than the ADD's.
func TestAddTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.faults["ADD 1"] = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		ctx, cancel := context.WithTimeout(t.Context(), 80*time.Second)
		defer cancel()
		start := time.Now()
		_, err := r.Chain.Add(ctx, r.j, r.begin(2, "", journal.Namespace{}), Trip{})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 33*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		r.wantAsked("ADD 0", "ADD 1", "DEL 1", "DEL 0")
		r.wantFiles(0)
	})
}

// A step that the journal can't hold fails the ADD, and it is undone.
func TestAddWhileJournalFails(t *testing.T) {
	t.Run("result", func(t *testing.T) {
		r := newRig(t)
		r.results = map[int]string{1: `{half`}
		if _, err := r.Chain.Add(t.Context(), r.j, r.begin(2, "", journal.Namespace{}), Trip{}); err == nil {
			t.Error("no error")
		}
		r.wantAsked("ADD 0", "ADD 1", "DEL 1", "DEL 0")
		r.wantFiles(0)
	})
	t.Run("process", func(t *testing.T) {
		r := newRig(t)
		set := r.begin(1, "", journal.Namespace{})
		if err := errors.Join(set.Release(), r.j.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Chain.Add(t.Context(), r.j, set, Trip{}); err == nil {
			t.Error("no error")
		}
		r.wantAsked()
		r.wantFiles(1)
		r.reopen("boot-1")
		set, ok := r.j.Get(key())
		if !ok {
			t.Fatal("the set is forgotten")
		}
		if err := r.Chain.Del(t.Context(), r.j, set, "restart", Trip{}); err != nil {
			t.Error(err)
		}
		r.wantAsked()
		r.wantFiles(0)
	})
}

func TestAddWithoutNamespaceForRoutes(t *testing.T) {
	r := newRig(t)
	p := &attach.Plan{
		Key: key(), Netns: "/run/netns/none",
		Delegates:     []attach.Delegate{{Network: "p", IfName: "if0"}, {Network: "ns/n1", IfName: "if1"}},
		DefaultRoutes: []attach.DefaultRoute{{Delegate: 1}},
	}
	set, err := r.j.Begin(p, journal.Namespace{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Chain.Add(t.Context(), r.j, set, Trip{}); err == nil || !strings.HasPrefix(err.Error(), "default-route: ") {
		t.Errorf("error %v", err)
	}
	r.wantAsked("ADD 0", "ADD 1", "DEL 1", "DEL 0")
	r.wantFiles(0)
}
