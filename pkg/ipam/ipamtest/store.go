package ipamtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// Opener opens stores of the implementation under test.
type Opener struct {
	// Fresh makes a new, empty world. Each call of what it returns opens one
	// more handle on that world, as another process would have it.
	Fresh func(t *testing.T) func(t *testing.T) ipam.Store
}

// Store holds an implementation to what ipam.Store and its objects say. Reads
// that may be old have 20 seconds to become right, all others none.
func Store(t *testing.T, o Opener) {
	t.Run("Block", func(t *testing.T) { testThings(t, o, blockThings()) })
	t.Run("Claim", func(t *testing.T) { testThings(t, o, claimThings()) })
	for _, c := range []struct {
		name string
		test func(t *testing.T, w pair)
	}{
		{"Space/is made as given if it isn't there", spaceIsMade},
		{"Space/keeps the settings of the first", spaceKeeps},
		{"Space/is made once by many callers at once", spaceOnce},
		{"Space/of a bad name is refused", spaceNames},
		{"NodeBlocks/are those whose owner's node has the name", nodeBlocks},
		{"NodeClaims/are those whose owner's node has the name", nodeClaims},
		{"KeptClaims/are those of a keeper, whatever their state", keptClaims},
		{"SpaceBlocks/are those of the space that meet the set", spaceBlocks},
		{"SpaceClaims/are those of the space within the set, as they are now", spaceClaims},
		{"Taken/are the addresses of the space within the set that have claims", taken},
		{"Nodes/is at least 1", nodes},
		{"Ask/asks the node", ask},
		{"Ask/again changes nothing", askAgain},
		{"Ask/of many callers at once loses none", askOnce},
		{"Answered/takes requests away", answered},
		{"Mirror/returns the block's new version", mirrorVersion},
		{"Mirror/needs the block's UID", mirrorUID},
		{"Mirror/changes nothing of the block", mirrorBlock},
	} {
		t.Run(c.name, func(t *testing.T) {
			open := o.Fresh(t)
			c.test(t, pair{open(t), open(t)})
		})
	}
}

// pair is a world with two handles on it.
type pair struct{ a, b ipam.Store }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// is fails unless err is one of the wanted.
func is(t *testing.T, what string, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	t.Errorf("%s: got %v, want %v", what, err, want)
}

// same fails when the values differ; an empty slice is as good as none.
func same(t *testing.T, what string, want, got any, opts ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, append(opts, comparers()...)...); diff != "" {
		t.Errorf("%s (-want +got): %s", what, diff)
	}
}

func comparers() []cmp.Option {
	return []cmp.Option{cmpopts.EquateComparable(ipam.Block{}.Ref.Prefix, ipam.Claim{}.Ref.Addr), cmpopts.EquateEmpty()}
}

// soon waits until a read that may be old is right.
func soon(t *testing.T, what string, want any, read func() (any, error)) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got, err := read()
		diff := cmp.Diff(want, got, comparers()...)
		if err == nil && diff == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s (-want +got): %v %s", what, err, diff)
		}
	}
}

// things are the functions of one kind of object, so that blocks and claims are
// held to the same sentences.
type things[T any] struct {
	kind string
	// sample is the n-th object, each of another name.
	sample func(n int) T
	// changes are objects of the same name with other contents.
	changes func(T) []T
	// bad are objects whose names are refused, by what is wrong with them.
	bad            map[string]T
	get            func(ctx context.Context, s ipam.Store, of T) (T, error)
	create, update func(ctx context.Context, s ipam.Store, o T) (T, error)
	remove         func(ctx context.Context, s ipam.Store, o T, v ipam.Version) error
	version        func(*T) *ipam.Version
	// number is a field that a test may count in.
	number func(*T) *string
}

// with is the object under another version.
func (k things[T]) with(o T, v ipam.Version) T {
	*k.version(&o) = v
	return o
}

// now reads an object that must be there.
func (k things[T]) now(t *testing.T, s ipam.Store, of T) T {
	t.Helper()
	o, err := k.get(t.Context(), s, of)
	must(t, err)
	return o
}

// made creates an object.
func (k things[T]) made(t *testing.T, s ipam.Store, o T) T {
	t.Helper()
	created, err := k.create(t.Context(), s, o)
	must(t, err)
	return created
}

// others are versions that the object doesn't have.
func others(v ipam.Version) map[string]ipam.Version {
	return map[string]ipam.Version{
		"no version":          {},
		"no UID":              {Resource: v.Resource},
		"no resourceVersion":  {UID: v.UID},
		"another UID":         {UID: flip(v.UID), Resource: v.Resource},
		"a resourceVersion 0": {UID: v.UID, Resource: "0"},
	}
}

// flip changes the last character of a UID.
func flip(uid string) string {
	last := uid[len(uid)-1]
	if last == '0' {
		return uid[:len(uid)-1] + "1"
	}
	return fmt.Sprintf("%s%c", uid[:len(uid)-1], '0')
}
