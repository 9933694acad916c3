package whereabouts

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/iprange"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// story is what a golden file holds: Whereabouts' objects and our own.
type story struct {
	Input
	// Definitions have their config as text.
	Definitions []struct{ Namespace, Name, Config string }
	// Blocks and Claims are our own that exist.
	Blocks []ipam.Block
	Claims []ipam.Claim
}

func readStory(t *testing.T, archive *txtar.Archive) story {
	t.Helper()
	i := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == "objects.yaml" })
	var s story
	if err := yaml.UnmarshalStrict(archive.Files[i].Data, &s); err != nil {
		t.Fatal(err)
	}
	for _, d := range s.Definitions {
		s.Input.Definitions = append(s.Input.Definitions, Definition{d.Namespace, d.Name, []byte(d.Config)})
	}
	return s
}

// world has the story's own objects.
func (s story) world() *world {
	w := newWorld()
	for _, as := range s.Spaces {
		w.spaces[as.Name] = as
	}
	for i, b := range s.Blocks {
		b.Version = ipam.Version{UID: fmt.Sprint("block-", i), Resource: "1"}
		w.blocks[b.Ref] = b
	}
	for i, c := range s.Claims {
		c.Version = ipam.Version{UID: fmt.Sprint("claim-", i), Resource: "1"}
		w.claims[c.Ref] = c
	}
	return w
}

func (s story) plan(t *testing.T, w *world) Plan {
	t.Helper()
	wanted := Survey(s.Input)
	have, err := Observe(t.Context(), fakeStore{world: w}, wanted)
	if err != nil {
		t.Fatal(err)
	}
	return wanted.Plan(have)
}

func stories(t *testing.T, do func(t *testing.T, path string, archive *txtar.Archive)) {
	t.Helper()
	paths, err := filepath.Glob("testdata/plan/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no stories", err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(filepath.Base(path), func(t *testing.T) { do(t, path, archive) })
	}
}

func TestPlan(t *testing.T) {
	stories(t, func(t *testing.T, path string, archive *txtar.Archive) {
		s := readStory(t, archive)
		got := s.plan(t, s.world()).String()
		i := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == "plan" })
		if *update {
			archive.Files[i].Data = []byte(got)
			if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(string(archive.Files[i].Data), got); diff != "" {
			t.Errorf("plan (-want +got):\n%s", diff)
		}
	})
}

// TestOrderDoesNotMatter: the plan depends on what there is, not on the order
// in which the API server lists it.
func TestOrderDoesNotMatter(t *testing.T) {
	stories(t, func(t *testing.T, _ string, archive *txtar.Archive) {
		s := readStory(t, archive)
		forwards := Plan{Spaces: s.plan(t, s.world()).Spaces}.String()
		slices.Reverse(s.Pools)
		slices.Reverse(s.Reservations)
		slices.Reverse(s.Input.Definitions)
		slices.Reverse(s.Pods)
		slices.Reverse(s.Slices)
		if diff := cmp.Diff(forwards, Plan{Spaces: s.plan(t, s.world()).Spaces}.String()); diff != "" {
			t.Errorf("plan (-forwards +backwards):\n%s", diff)
		}
	})
}

// demote makes the nodes that are asked share their blocks.
func (w *world) demote() {
	for ref, b := range w.blocks {
		if b.Mode == ipam.Leased && slices.Contains(w.asked[b.Owner.Name], ref) {
			b.Mode, b.Owner = ipam.Shared, ipam.Node{}
			w.blocks[ref] = b
		}
	}
}

// objects is what is left after all, without versions.
func (w *world) objects() string {
	var lines []string
	for _, b := range w.blocks {
		lines = append(lines, fmt.Sprintf("%s %s %s", b.Ref, b.Mode, b.Owner.Name))
	}
	for _, c := range w.claims {
		lines = append(lines, fmt.Sprintf("%s %s", c.Ref, claimText(c)))
	}
	slices.Sort(lines)
	return fmt.Sprint(lines)
}

func TestApply(t *testing.T) {
	stories(t, func(t *testing.T, _ string, archive *txtar.Archive) {
		synctest.Test(t, func(t *testing.T) {
			s := readStory(t, archive)
			w := s.world()
			w.gate = func(_ context.Context, what string, do func() error) error {
				defer func() {
					if what == "ask" {
						w.demote()
					}
				}()
				return do()
			}
			p := s.plan(t, w)
			done, err := Apply(t.Context(), fakeStore{world: w}, p)
			if err != nil {
				t.Fatal(err)
			}
			if done.Claims != p.Claims() {
				t.Errorf("%d claims made, %d planned", done.Claims, p.Claims())
			}
			after := w.objects()
			// The same plan and a new one change nothing.
			for _, p := range []Plan{p, s.plan(t, w)} {
				done, err := Apply(t.Context(), fakeStore{world: w}, p)
				if err != nil || done.Claims > 0 || done.Blocks > 0 || len(done.Findings) > 0 {
					t.Errorf("a second run made %+v, %v", done, err)
				}
			}
			if diff := cmp.Diff(after, w.objects()); diff != "" {
				t.Errorf("a second run changed (-before +after):\n%s", diff)
			}
			killEverywhere(t, s, after)
		})
	})
}

// killEverywhere ends Apply at each call, before or after it took effect, and
// runs it again: the end is the same.
func killEverywhere(t *testing.T, s story, want string) {
	t.Helper()
	for applied := range 2 {
		for at := 0; ; at++ {
			w := s.world()
			calls, dead := 0, false
			w.gate = func(_ context.Context, what string, do func() error) error {
				calls++
				if dead {
					return errLost
				}
				if dead = calls == at+1; dead && applied == 0 {
					return errLost
				}
				err := do()
				if what == "ask" {
					w.mu.Lock()
					w.demote()
					w.mu.Unlock()
				}
				if dead {
					return errLost
				}
				return err
			}
			p := s.plan(t, s.world())
			if _, err := Apply(t.Context(), fakeStore{world: w}, p); err == nil {
				break // it has no more calls
			} else if !errors.Is(err, errLost) {
				t.Fatal(err)
			}
			w.gate = func(_ context.Context, what string, do func() error) error {
				err := do()
				w.demote()
				return err
			}
			if _, err := Apply(t.Context(), fakeStore{world: w}, s.plan(t, w)); err != nil {
				t.Fatalf("after a kill at call %d: %v", at, err)
			}
			if diff := cmp.Diff(want, w.objects()); diff != "" {
				t.Fatalf("after a kill at call %d (-want +got):\n%s", at, diff)
			}
		}
	}
}

func TestApplyStops(t *testing.T) {
	block := ipam.BlockRef{Space: ipam.DefaultSpace, Prefix: netip.MustParsePrefix("10.0.0.0/26")}
	as := ipam.Space{Name: ipam.DefaultSpace, Grid: iprange.DefaultGrid()}
	plan := Plan{Spaces: []SpacePlan{{Space: as, Blocks: []BlockPlan{{Ref: block, Claims: []ipam.Claim{claim("10.0.0.5", "a", 1)}}}}}}
	for _, test := range []struct {
		name    string
		prepare func(w *world)
		beside  bool
		want    string
	}{
		{"another grid", func(w *world) {
			other := as
			other.Grid.V4 = 24
			w.spaces[as.Name] = other
		}, false, "address space default has blocks of /24 and /122, the plan /26 and /122: plan again with the space as it is"},
		{"not beside", func(w *world) { w.spaces[as.Name] = as }, true, "address space default exists without whereabouts: true: set it, wait six minutes until every meta-cnid has seen it, and run this again; or stop Whereabouts and take over without it"},
		{"a node that doesn't answer", func(w *world) {
			w.blocks[block] = ipam.Block{Ref: block, Mode: ipam.Leased, Owner: ipam.Node{Name: "n1"}}
		}, false, "block default.10.0.0.0-26 is still leased by node n1: is meta-cnid running there? Run this again: context deadline exceeded"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				test.prepare(w)
				plan := plan
				plan.Spaces = slices.Clone(plan.Spaces)
				plan.Spaces[0].Space.Whereabouts = test.beside
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := Apply(ctx, fakeStore{world: w}, plan)
				if diff := cmp.Diff(test.want, fmt.Sprint(err)); diff != "" {
					t.Errorf("error (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestTheLastLook: a client that knows that its answer would come too late
// refuses to ask; what is told is the block all the same.
func TestTheLastLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := ipam.BlockRef{Space: ipam.DefaultSpace, Prefix: netip.MustParsePrefix("10.0.0.0/26")}
		w := newWorld()
		w.blocks[block] = ipam.Block{Ref: block, Mode: ipam.Leased, Owner: ipam.Node{Name: "n1"}}
		looks := 0
		w.gate = func(_ context.Context, _ string, do func() error) error {
			if looks++; looks > 1 {
				return errLost
			}
			return do()
		}
		ctx, cancel := context.WithTimeout(t.Context(), pollInterval+pollInterval/2)
		defer cancel()
		err := awaitShared(ctx, fakeStore{world: w}, block)
		if err == nil || !strings.Contains(err.Error(), "still leased by node n1") || !errors.Is(err, errLost) {
			t.Error(err)
		}
	})
}

func TestABlockOfNobodyIsShared(t *testing.T) {
	w := newWorld()
	block := ipam.BlockRef{Space: ipam.DefaultSpace, Prefix: netip.MustParsePrefix("10.0.0.0/26")}
	w.blocks[block] = ipam.Block{Ref: block, Mode: ipam.Leased, Suspect: true}
	as := ipam.Space{Name: ipam.DefaultSpace, Grid: iprange.DefaultGrid()}
	c := claim("10.0.0.5", "a", 1)
	p := Wanted{Spaces: []ipam.Space{as}, Claims: []ipam.Claim{c}}.Plan(Existing{Blocks: w.blocks})
	done, err := Apply(t.Context(), fakeStore{world: w}, p)
	if err != nil || done.Claims != 1 {
		t.Fatalf("%+v, %v", done, err)
	}
	if b := w.blocks[block]; b.Mode != ipam.Shared || !b.Suspect {
		t.Errorf("%+v", b)
	}
}
