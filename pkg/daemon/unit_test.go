package daemon

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/journal"
	"github.com/meta-cni/meta-cni/pkg/wire"
)

func TestOrderIsFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrder()
		var mu sync.Mutex
		var served []int
		leave, err := o.enter(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		for i := range 5 {
			group.Go(func() {
				leave, err := o.enter(t.Context(), "a")
				if err != nil {
					t.Error(err)
					return
				}
				defer leave()
				mu.Lock()
				defer mu.Unlock()
				served = append(served, i)
			})
			synctest.Wait()
		}
		other, err := o.enter(t.Context(), "b")
		if err != nil {
			t.Fatal("another sandbox has to wait:", err)
		}
		other()
		leave()
		group.Wait()
		if diff := cmp.Diff([]int{0, 1, 2, 3, 4}, served); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
		if len(o.keys) != 0 {
			t.Errorf("%d keys are kept", len(o.keys))
		}
	})
}

func TestOrderGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrder()
		leave, err := o.enter(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := o.enter(ctx, "a"); code(err) != wire.CodeTryAgainLater {
			t.Errorf("code %d, want 11: %v", code(err), err)
		}
		if _, ok := o.tryEnter("a"); ok {
			t.Error("tryEnter entered a taken turn")
		}
		leave()
		again, ok := o.tryEnter("a")
		if !ok {
			t.Fatal("tryEnter didn't enter a free turn")
		}
		again()
	})
}

func TestLaneIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane("ADD", 2)
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range maxQueue + 2 {
			group.Go(func() {
				if leave, err := l.enter(ctx, nil); err == nil {
					<-ctx.Done()
					leave()
				}
			})
		}
		synctest.Wait()
		if _, err := l.enter(ctx, nil); code(err) != wire.CodeTryAgainLater {
			t.Errorf("beyond the queue: %v, want code 11", err)
		}
		cancel()
		group.Wait()
	})
}

func TestGraves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ns := journal.Namespace{Dev: 1, Inode: 2}
		c, other := attach.Key{ContainerID: "c", IfName: "eth0"}, attach.Key{ContainerID: "c", IfName: "eth1"}
		g := newGraves(true)
		g.bury(c, ns)
		if !g.holds(c, ns) || g.holds(c, journal.Namespace{Dev: 1, Inode: 3}) || g.holds(other, ns) {
			t.Error("only the same container in the same namespace is refused")
		}
		if !g.knows(c) {
			t.Error("the DEL is forgotten")
		}
		time.Sleep(graveTime + time.Second)
		if g.holds(c, ns) || g.knows(c) {
			t.Error("the grave is kept for ever")
		}
		standalone := newGraves(false)
		standalone.bury(c, ns)
		if standalone.holds(c, ns) {
			t.Error("standalone refuses an ADD after a DEL")
		}
	})
}

func TestParkable(t *testing.T) {
	now := time.Now()
	failed := journal.Step{Touched: true, Failures: parkTries, FailedSince: now.Add(-parkTime)}
	for name, tc := range map[string]struct {
		steps []journal.Step
		want  bool
	}{
		"secondary failed long enough": {[]journal.Step{{Touched: true, Deleted: true}, failed}, true},
		"primary fails":                {[]journal.Step{failed, {Touched: true, Deleted: true}}, false},
		"too few tries":                {[]journal.Step{{Deleted: true}, {Touched: true, Failures: 1, FailedSince: now.Add(-time.Hour)}}, false},
		"too short":                    {[]journal.Step{{Deleted: true}, {Touched: true, Failures: 9, FailedSince: now}}, false},
		"one of two":                   {[]journal.Step{{Deleted: true}, failed, {Touched: true, Failures: 1, FailedSince: now}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			state := &journal.State{Steps: tc.steps}
			state.Plan.Delegates = slices.Repeat([]attach.Delegate{{}}, len(tc.steps))
			state.Plan.Delegates[0].Primary = true
			if got := parkable(state, now); got != tc.want {
				t.Errorf("parkable = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestCode(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want uint
	}{
		"delegate's":  {errors.Join(errors.New("x"), &types.Error{Code: 120}), 120},
		"own":         {invalid(7, errors.New("x")), 7},
		"own first":   {invalid(11, &types.Error{Code: 120}), 11},
		"unavailable": {errors.Join(attach.ErrUnavailable), 11},
		"time":        {context.DeadlineExceeded, 11},
		"unknown":     {errors.New("x"), 999},
	} {
		t.Run(name, func(t *testing.T) {
			if got := code(tc.err); got != tc.want {
				t.Errorf("code = %d, want %d", got, tc.want)
			}
		})
	}
}

func TestValidAttachments(t *testing.T) {
	got, err := validAttachments([]byte(`{"cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[attach.Key]bool{{ContainerID: "c", IfName: "eth0"}: true}, got); diff != "" {
		t.Errorf("valid (-want +got):\n%s", diff)
	}
	if _, err := validAttachments([]byte(`{}`)); err == nil {
		t.Error("a missing list was taken for an empty one: everything would be removed")
	}
	if got, err := validAttachments([]byte(`{"cni.dev/valid-attachments":[]}`)); err != nil || len(got) != 0 {
		t.Errorf("an empty list: %v, %v", got, err)
	}
}
