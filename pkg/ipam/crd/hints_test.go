package crd

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// board is an API server that has some claims; it counts its watches.
type board struct {
	selectors []string
	watches   int
	fail      error
}

func (b *board) source(selector string) source {
	b.selectors = append(b.selectors, selector)
	return source{
		what: "ipclaims", example: &metav1.PartialObjectMetadata{},
		list: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			list := &metav1.PartialObjectMetadataList{}
			list.ResourceVersion = "1"
			for _, name := range []string{"s.10.0.0.3", "s.10.0.0.200", "t.10.0.0.4", "junk"} {
				list.Items = append(list.Items, metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name}})
			}
			return list, b.fail
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			if b.fail != nil {
				return nil, b.fail
			}
			if o.SendInitialEvents != nil { // as an API server says it that has no streamed lists
				return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "", nil)
			}
			b.watches++
			w := watch.NewFake()
			context.AfterFunc(ctx, func() { b.watches-- })
			return w, nil
		},
	}
}

// watched is a store with nothing but hints.
func watched(b *board) *Store {
	s := &Store{log: slog.New(slog.DiscardHandler)}
	s.hints = newHints(s, s.log)
	s.hints.claims = b.source
	s.hints.grid = func(context.Context, string) (iprange.Grid, bool) { return iprange.DefaultGrid(), true }
	return s
}

func parse(t *testing.T, text string) iprange.Set {
	t.Helper()
	s, err := iprange.ParseSet(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestHintLivesWhileItIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{}
		s := watched(b)
		defer s.Close()
		within := parse(t, "10.0.0.1-10.0.0.126")
		ask := func() {
			t.Helper()
			got, err := s.Taken(t.Context(), "s", within)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]bool{"10.0.0.3": true}, words(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		for range 5 {
			ask()
			time.Sleep(hintIdle * 9 / 10)
		}
		synctest.Wait()
		if len(b.selectors) != 1 || b.selectors[0] != "meta-cni.io/space=s,meta-cni.io/block in (10.0.0.0-26,10.0.0.64-26)" {
			t.Errorf("selectors %q", b.selectors)
		}
		time.Sleep(2 * hintIdle)
		synctest.Wait()
		if len(s.hints.ranges) != 0 {
			t.Errorf("%d watches live on", len(s.hints.ranges))
		}
		ask()
		if len(b.selectors) != 2 {
			t.Errorf("%d watches were begun, want 2", len(b.selectors))
		}
	})
}

func words(addrs map[netip.Addr]bool) map[string]bool {
	out := map[string]bool{}
	for addr, taken := range addrs {
		out[addr.String()] = taken
	}
	return out
}

func TestHintsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := watched(&board{})
		for i := range 2 * maxHints {
			if _, err := s.Taken(t.Context(), "s", parse(t, fmt.Sprintf("10.0.%d.0/28", i))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := len(s.hints.ranges); n != maxHints {
			t.Errorf("%d watches", n)
		}
		if s.hints.ranges["s 10.0.63.0/28"] == nil || s.hints.ranges["s 10.0.0.0/28"] != nil {
			t.Error("the newest gave way to the oldest")
		}
		s.Close()
		if got, err := s.Taken(t.Context(), "s", parse(t, "10.0.0.0/28")); err != nil || len(got) > 0 {
			t.Errorf("closed: %v, %v", got, err)
		}
	})
}

// TestHintDoesntWaitForADeadServer longer than a moment, and once only.
func TestHintDoesntWaitForADeadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := watched(&board{fail: fmt.Errorf("no answer")})
		defer s.Close()
		begin := time.Now()
		for range 10 {
			if got, err := s.Taken(t.Context(), "s", parse(t, "10.0.0.0/28")); err != nil || len(got) > 0 {
				t.Errorf("%v, %v", got, err)
			}
		}
		if d := time.Since(begin); d > settleTime {
			t.Errorf("ten calls took %s", d)
		}
	})
}
