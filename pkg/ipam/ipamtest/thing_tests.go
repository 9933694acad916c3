package ipamtest

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// testThings holds one kind of object to the doc of ipam.Store.
func testThings[T any](t *testing.T, o Opener, k things[T]) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, k things[T], w pair)
	}{
		{"what isn't there is not found", absent[T]},
		{"what is created is there, as given, for all", created[T]},
		{"what exists is not created again", existing[T]},
		{"names tell objects apart", apart[T]},
		{"an update is there, field by field, for all", updated[T]},
		{"an update gives a new version, also when nothing changes", touched[T]},
		{"an update of another version is refused and changes nothing", staleUpdates[T]},
		{"an update of what isn't there is refused", updateOfNothing[T]},
		{"a deletion of another version is refused and changes nothing", staleDeletions[T]},
		{"a deletion takes it away for all", deleted[T]},
		{"a new object has a new UID, which no old version fits", reborn[T]},
		{"bad names are refused", badNames[T]},
		{"nothing is done for a caller who has gone", gone[T]},
		{"one of many callers creates", oneCreates[T]},
		{"one of many callers updates", oneUpdates[T]},
		{"one of update and deletion wins", oneWins[T]},
		{"no update is lost", countUp[T]},
	} {
		t.Run(c.name, func(t *testing.T) {
			open := o.Fresh(t)
			c.test(t, k, pair{open(t), open(t)})
		})
	}
}

func absent[T any](t *testing.T, k things[T], w pair) {
	for n := range 3 {
		_, err := k.get(t.Context(), w.a, k.sample(n))
		is(t, "get", err, ipam.ErrNotFound)
		is(t, "delete", k.remove(t.Context(), w.a, k.sample(n), ipam.Version{UID: "u", Resource: "1"}), ipam.ErrNotFound)
	}
}

func created[T any](t *testing.T, k things[T], w pair) {
	for n := range 6 {
		want := k.sample(n)
		made := k.made(t, w.a, want)
		v := *k.version(&made)
		if v.UID == "" || v.Resource == "" {
			t.Errorf("%d: version %+v", n, v)
		}
		same(t, "what Create returns", k.with(want, v), made)
		same(t, "what the same handle reads", made, k.now(t, w.a, want))
		same(t, "what another handle reads", made, k.now(t, w.b, want))
	}
}

func existing[T any](t *testing.T, k things[T], w pair) {
	first := k.made(t, w.a, k.sample(0))
	for _, s := range []ipam.Store{w.a, w.b} {
		for _, again := range append(k.changes(k.sample(0)), k.sample(0)) {
			_, err := k.create(t.Context(), s, again)
			is(t, "create", err, ipam.ErrExists)
		}
	}
	same(t, "the object", first, k.now(t, w.b, first))
}

func apart[T any](t *testing.T, k things[T], w pair) {
	var all []T
	uids := map[string]bool{}
	for n := range 30 {
		o := k.made(t, w.a, k.sample(n))
		all = append(all, o)
		uids[k.version(&o).UID] = true
	}
	if len(uids) != len(all) {
		t.Errorf("%d objects have %d UIDs", len(all), len(uids))
	}
	must(t, k.remove(t.Context(), w.b, all[7], *k.version(&all[7])))
	for n, o := range all {
		if n != 7 {
			same(t, strconv.Itoa(n), o, k.now(t, w.b, o))
		}
	}
}

func updated[T any](t *testing.T, k things[T], w pair) {
	for n := range 3 {
		now := k.made(t, w.a, k.sample(n))
		for _, want := range k.changes(now) {
			v := *k.version(&now)
			got, err := k.update(t.Context(), w.b, k.with(want, v))
			must(t, err)
			if k.version(&got).UID != v.UID || k.version(&got).Resource == v.Resource || k.version(&got).Resource == "" {
				t.Errorf("version %+v became %+v", v, *k.version(&got))
			}
			same(t, "what Update returns", k.with(want, *k.version(&got)), got)
			same(t, "what another handle reads", got, k.now(t, w.a, want))
			same(t, "what the same handle reads", got, k.now(t, w.b, want))
			now = got
		}
	}
}

func touched[T any](t *testing.T, k things[T], w pair) {
	now := k.made(t, w.a, k.sample(0))
	seen := map[string]bool{k.version(&now).Resource: true}
	for range 20 {
		former := now
		var err error
		now, err = k.update(t.Context(), w.a, now)
		must(t, err)
		if seen[k.version(&now).Resource] {
			t.Fatalf("resourceVersion %s came again", k.version(&now).Resource)
		}
		seen[k.version(&now).Resource] = true
		_, err = k.update(t.Context(), w.b, former)
		is(t, "update of the version before", err, ipam.ErrStale)
		is(t, "delete of the version before", k.remove(t.Context(), w.b, former, *k.version(&former)), ipam.ErrStale)
	}
	same(t, "the object", now, k.now(t, w.b, now))
}

func staleUpdates[T any](t *testing.T, k things[T], w pair) {
	now := k.made(t, w.a, k.sample(0))
	for name, v := range others(*k.version(&now)) {
		for _, change := range append(k.changes(now), now) {
			_, err := k.update(t.Context(), w.b, k.with(change, v))
			is(t, name, err, ipam.ErrStale)
		}
	}
	same(t, "the object", now, k.now(t, w.b, now))
}

func updateOfNothing[T any](t *testing.T, k things[T], w pair) {
	for _, v := range []ipam.Version{{}, {UID: "6a4a8f2e-3f0e-4a65-9d4f-0d9f9a3c8a11", Resource: "1"}} {
		_, err := k.update(t.Context(), w.a, k.with(k.sample(0), v))
		is(t, "update", err, ipam.ErrStale, ipam.ErrNotFound)
		_, err = k.get(t.Context(), w.a, k.sample(0))
		is(t, "get", err, ipam.ErrNotFound)
	}
}

func staleDeletions[T any](t *testing.T, k things[T], w pair) {
	now := k.made(t, w.a, k.sample(0))
	for name, v := range others(*k.version(&now)) {
		is(t, name, k.remove(t.Context(), w.b, now, v), ipam.ErrStale)
	}
	same(t, "the object", now, k.now(t, w.b, now))
}

func deleted[T any](t *testing.T, k things[T], w pair) {
	now := k.made(t, w.a, k.sample(0))
	must(t, k.remove(t.Context(), w.b, now, *k.version(&now)))
	for _, s := range []ipam.Store{w.a, w.b} {
		_, err := k.get(t.Context(), s, now)
		is(t, "get", err, ipam.ErrNotFound)
		is(t, "delete", k.remove(t.Context(), s, now, *k.version(&now)), ipam.ErrNotFound)
		_, err = k.update(t.Context(), s, now)
		is(t, "update", err, ipam.ErrStale, ipam.ErrNotFound)
	}
}

func reborn[T any](t *testing.T, k things[T], w pair) {
	uids := map[string]bool{}
	var old []ipam.Version
	for range 5 {
		now := k.made(t, w.a, k.sample(0))
		if uids[k.version(&now).UID] {
			t.Errorf("UID %s came again", k.version(&now).UID)
		}
		uids[k.version(&now).UID] = true
		for _, v := range old {
			_, err := k.update(t.Context(), w.b, k.with(now, v))
			is(t, "update of an old object", err, ipam.ErrStale)
			is(t, "delete of an old object", k.remove(t.Context(), w.b, now, v), ipam.ErrStale)
			// The UID alone must tell, where versions are counted per object.
			v.Resource = k.version(&now).Resource
			_, err = k.update(t.Context(), w.b, k.with(now, v))
			is(t, "update of an old UID", err, ipam.ErrStale)
			is(t, "delete of an old UID", k.remove(t.Context(), w.b, now, v), ipam.ErrStale)
		}
		same(t, "the object", now, k.now(t, w.a, now))
		old = append(old, *k.version(&now))
		must(t, k.remove(t.Context(), w.a, now, *k.version(&now)))
	}
}

func badNames[T any](t *testing.T, k things[T], w pair) {
	for name, o := range k.bad {
		if _, err := k.create(t.Context(), w.a, o); err == nil || errors.Is(err, ipam.ErrExists) {
			t.Errorf("%s: create: %v", name, err)
		}
		if got, err := k.get(t.Context(), w.a, o); err == nil {
			t.Errorf("%s: get: %v", name, got)
		}
		v := ipam.Version{UID: "6a4a8f2e-3f0e-4a65-9d4f-0d9f9a3c8a11", Resource: "1"}
		if _, err := k.update(t.Context(), w.a, k.with(o, v)); err == nil {
			t.Errorf("%s: updated", name)
		}
		if err := k.remove(t.Context(), w.a, o, v); err == nil {
			t.Errorf("%s: deleted", name)
		}
	}
}

func gone[T any](t *testing.T, k things[T], w pair) {
	there := k.made(t, w.a, k.sample(0))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := k.create(ctx, w.a, k.sample(1))
	is(t, "create", err, context.Canceled)
	_, err = k.update(ctx, w.a, k.changes(there)[0])
	is(t, "update", err, context.Canceled)
	is(t, "delete", k.remove(ctx, w.a, there, *k.version(&there)), context.Canceled)
	_, err = k.get(t.Context(), w.b, k.sample(1))
	is(t, "get", err, ipam.ErrNotFound)
	same(t, "the object", there, k.now(t, w.b, there))
}

// together runs callers at once, every other one on the second handle, and
// returns how many had no error; the others must have the wanted one.
func together(t *testing.T, w pair, callers int, want error, call func(s ipam.Store, n int) error) (won int) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	start := make(chan struct{})
	for n := range callers {
		all.Go(func() {
			<-start
			err := call([]ipam.Store{w.a, w.b}[n%2], n)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if want == nil || !errors.Is(err, want) {
				t.Errorf("caller %d: %v", n, err)
			}
		})
	}
	close(start)
	all.Wait()
	return won
}

func oneCreates[T any](t *testing.T, k things[T], w pair) {
	for round := range 10 {
		var winner T
		won := together(t, w, 16, ipam.ErrExists, func(s ipam.Store, n int) error {
			o := k.sample(3 * round)
			*k.number(&o) = strconv.Itoa(n)
			made, err := k.create(t.Context(), s, o)
			if err == nil {
				winner = made
			}
			return err
		})
		if won != 1 {
			t.Fatalf("%d callers created one object", won)
		}
		same(t, "the object", winner, k.now(t, w.a, winner))
	}
}

func oneUpdates[T any](t *testing.T, k things[T], w pair) {
	now := k.made(t, w.a, k.sample(0))
	for range 10 {
		var winner T
		won := together(t, w, 16, ipam.ErrStale, func(s ipam.Store, n int) error {
			o := now
			*k.number(&o) = strconv.Itoa(n)
			made, err := k.update(t.Context(), s, o)
			if err == nil {
				winner = made
			}
			return err
		})
		if won != 1 {
			t.Fatalf("%d callers updated one version", won)
		}
		now = k.now(t, w.a, now)
		same(t, "the object", winner, now)
	}
}

func oneWins[T any](t *testing.T, k things[T], w pair) {
	for range 10 {
		now := k.made(t, w.a, k.sample(0))
		var mu sync.Mutex
		updates, deletions := 0, 0
		together(t, w, 8, nil, func(s ipam.Store, n int) error {
			var err error
			if n < 4 {
				_, err = k.update(t.Context(), s, now)
			} else {
				err = k.remove(t.Context(), s, now, *k.version(&now))
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && n < 4:
				updates++
			case err == nil:
				deletions++
			case !errors.Is(err, ipam.ErrStale) && !errors.Is(err, ipam.ErrNotFound):
				return err
			}
			return nil
		})
		if updates+deletions != 1 {
			t.Fatalf("%d updates and %d deletions of one version", updates, deletions)
		}
		left, err := k.get(t.Context(), w.a, now)
		if (deletions == 1) != errors.Is(err, ipam.ErrNotFound) {
			t.Fatalf("%d deletions: %v", deletions, err)
		}
		if err == nil {
			must(t, k.remove(t.Context(), w.a, left, *k.version(&left)))
		}
	}
}

// countUp: with retries, read-modify-write adds up.
func countUp[T any](t *testing.T, k things[T], w pair) {
	const callers, each = 6, 15
	o := k.sample(0)
	*k.number(&o) = "0"
	o = k.made(t, w.a, o)
	together(t, w, callers, nil, func(s ipam.Store, _ int) error {
		for done := 0; done < each; {
			now, err := k.get(t.Context(), s, o)
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(*k.number(&now))
			if err != nil {
				return err
			}
			*k.number(&now) = strconv.Itoa(n + 1)
			if _, err = k.update(t.Context(), s, now); err == nil {
				done++
			} else if !errors.Is(err, ipam.ErrStale) {
				return err
			}
		}
		return nil
	})
	o = k.now(t, w.b, o)
	if got := *k.number(&o); got != strconv.Itoa(callers*each) {
		t.Errorf("%d updates counted up to %s", callers*each, got)
	}
}
