package chain

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/delegate/exec"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

// Each walk over delegates is announced with the context that really is alive:
// the undo's isn't the ADD's.
func TestRunning(t *testing.T) {
	r := newRig(t)
	var alive []context.Context
	r.opts.Running = func(ctx context.Context, containerID string) func() {
		if containerID != "c1" {
			t.Errorf("container %q", containerID)
		}
		alive = append(alive, ctx)
		return func() { alive = alive[:len(alive)-1] }
	}
	walks := map[string]error{}
	note := func(name string) func(context.Context) error {
		return func(context.Context) error {
			if len(alive) != 1 {
				t.Fatalf("%s: %d walks are announced", name, len(alive))
			}
			walks[name] = alive[0].Err()
			return nil
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.faults["ADD 0"], r.faults["DEL 0"] = note("ADD"), note("undo")
	r.faults["ADD 1"] = func(context.Context) error { cancel(); return errFault }
	if _, err := r.Chain.Add(ctx, r.j, r.begin(2, "", journal.Namespace{}), Trip{}); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	r.faults = map[string]func(context.Context) error{}
	set := r.added(1, "", journal.Namespace{})
	r.faults["DEL 0"] = note("DEL")
	must(t, r.Chain.Del(t.Context(), r.j, set, "DEL", Trip{}))
	if diff := cmp.Diff(map[string]error{"ADD": nil, "undo": nil, "DEL": nil}, walks); diff != "" || len(alive) != 0 {
		t.Errorf("contexts (-want +got):\n%s, %d are left", diff, len(alive))
	}
}

// The process of a DEL is in the journal before it has work, and a DEL that is
// tried for ever doesn't fill the disk.
func TestDelRecordsProcesses(t *testing.T) {
	r := newRig(t)
	set := r.added(1, "", journal.Namespace{})
	r.process = &journal.Process{Group: 1 << 30, StartTime: 5}
	for i := range 3 * maxProcesses {
		r.faults["DEL 0"] = func(context.Context) error {
			if got := set.State().Steps[0].Processes; len(got) != min(i+1, maxProcesses) || got[len(got)-1] != *r.process {
				t.Errorf("try %d: recorded are %v", i, got)
			}
			return errFault
		}
		if err := r.Chain.Del(t.Context(), r.j, set, "DEL", Trip{}); !errors.Is(err, errFault) {
			t.Fatal(err)
		}
	}
	if got := r.stored().Steps[0].Processes; len(got) != maxProcesses {
		t.Errorf("on disk: %d processes", len(got))
	}
}

// A journal that can't be written is no reason not to remove something.
func TestDelWhileJournalFails(t *testing.T) {
	r := newRig(t)
	set := r.added(2, "", journal.Namespace{})
	r.process = &journal.Process{Group: 1 << 30, StartTime: 5}
	must(t, errors.Join(set.Release(), r.j.Close()))
	_ = r.Chain.Del(t.Context(), r.j, set, "DEL", Trip{})
	r.wantAsked("DEL 1", "DEL 0")
}

// Only a delegate's own deadline is its failure: the caller that leaves and the
// daemon that stops are not, and the rest isn't asked.
func TestWhoseFailure(t *testing.T) {
	tests := []struct {
		name string
		end  func(cancel context.CancelFunc)
		want [2]int
		last string
	}{
		{"caller left", func(cancel context.CancelFunc) { cancel() }, [2]int{0, 0}, "DEL 1"},
		{"own deadline", func(context.CancelFunc) {}, [2]int{0, 1}, "DEL 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				set := r.added(2, "", journal.Namespace{})
				ctx, cancel := context.WithTimeout(t.Context(), 38*time.Second)
				defer cancel()
				r.faults["DEL 1"] = func(ctx context.Context) error { tt.end(cancel); <-ctx.Done(); return ctx.Err() }
				if err := r.Chain.Del(ctx, r.j, set, "DEL", Trip{}); err == nil {
					t.Error("no error")
				}
				state := set.State()
				if got := [2]int{state.Steps[0].Failures, state.Steps[1].Failures}; got != tt.want || r.asked[len(r.asked)-1] != tt.last {
					t.Errorf("failures %v, want %v; asked %v", got, tt.want, r.asked)
				}
			})
		})
	}
}

// Each delegate has its limit and the time to end it, but no more than the
// request has.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for budget, want := range map[time.Duration]time.Duration{80 * time.Second: 30*time.Second + exec.EndRoom, 10 * time.Second: 10 * time.Second} {
			ctx, cancel := context.WithTimeout(t.Context(), budget)
			var got []time.Duration
			for _, verb := range []string{"ADD", "CHECK", "DEL"} {
				r.faults[verb+" 0"] = func(ctx context.Context) error {
					deadline, _ := ctx.Deadline()
					got = append(got, time.Until(deadline))
					return nil
				}
			}
			set := r.begin(1, "", journal.Namespace{})
			_, err := r.Chain.Add(ctx, r.j, set, Trip{})
			must(t, errors.Join(err, r.Chain.Check(ctx, set, Trip{}), r.Chain.Del(ctx, r.j, set, "DEL", Trip{})))
			if diff := cmp.Diff([]time.Duration{want, want, want}, got); diff != "" {
				t.Errorf("of %v (-want +got):\n%s", budget, diff)
			}
			cancel()
		}
	})
}
